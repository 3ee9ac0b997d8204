import { realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { isatty } from 'node:tty';
import { readForeignNetworkNamespace } from '../host/network-namespace.ts';
import { type KernelFiles, kernelFiles } from '../host/own-mounts.ts';
import { networkNamespaceDirectory, runtimeDir } from '../host/runtime-dir.ts';

/** Who runs a helper or command, and everything of the world it sees: an entry point makes it once. */
export interface Caller {
  /** The name the user typed, for messages. */
  program: string;
  environment: Readonly<Record<string, string | undefined>>;
  /** Effective user id. */
  uid: number;
  workingDirectory: string;
  writeOut(text: string): void;
  writeError(text: string): void;
  stderrIsTerminal: boolean;
  /** Columns of the terminal that standard output is; null when it is none. */
  outColumns: number | null;
  /** Aborts on SIGINT, SIGTERM and SIGHUP; they are caught from the first look at it. */
  readonly interruption: AbortSignal;
  /** This very command: the interpreter, the program, its arguments. */
  command: readonly string[];
  /** Number of the caller's network namespace if that is not the one of process 1; else null. */
  networkNamespace(): number | null;
  /** Path of the agent's bundle, beside our own. */
  agentBundle(): string;
  files: KernelFiles;
  limits: Limits;
  /** Ends early when the caller is interrupted. */
  pause(delayMs: number): Promise<void>;
  /** A number in [0, 1). */
  random(): number;
}

/** All in milliseconds. */
export interface Limits {
  /** mount.nfs4's last attempt, which in the reference never ends. */
  lastAttemptMs: number;
  /** The agent's silence during a conversation. */
  silenceMs: number;
  /** A mount that takes longer shows its progress on a terminal. */
  slowMountMs: number;
  /** From starting the agent to its first answer. */
  agentStartMs: number;
  /** The agent's answer that a tunnel is closed. */
  closeMs: number;
  /** A look at a directory. */
  lookMs: number;
}

const limits: Limits = {
  lastAttemptMs: 180_000,
  // The start of an agent on a machine that boots is part of it; systemd gives a mount unit 90 s.
  silenceMs: 85_000,
  slowMountMs: 2_000,
  agentStartMs: 30_000,
  closeMs: 10_000,
  lookMs: 20_000,
};

/**
 * The runtime directory of the agent that serves the caller: the one the environment names, else the default one, or
 * one below it for the caller's network namespace. A listener on 127.0.0.1 serves one namespace only.
 */
export function agentDirectory(caller: Caller): string {
  const directory = runtimeDir(caller.environment);
  if (caller.environment['EFS_AGENT_RUNTIME_DIR']) return directory;
  const namespace = caller.networkNamespace();
  return namespace === null ? directory : networkNamespaceDirectory(directory, namespace);
}

/** The caller that this process stands for. */
export function createCaller(program: string): Caller {
  let interruption: AbortSignal | undefined;
  const caller: Caller = {
    program,
    environment: process.env,
    uid: process.geteuid?.() ?? -1,
    workingDirectory: readWorkingDirectory(),
    writeOut: createWriter(() => process.stdout),
    writeError: createWriter(() => process.stderr),
    stderrIsTerminal: isatty(2),
    get outColumns() {
      return process.stdout.isTTY ? process.stdout.columns : null;
    },
    get interruption() {
      interruption ??= catchSignals();
      return interruption;
    },
    command: [process.execPath, ...process.argv.slice(1)],
    networkNamespace: readForeignNetworkNamespace,
    agentBundle: () => join(dirname(realpathSync(process.argv[1] ?? '.')), 'agent.cjs'),
    files: kernelFiles,
    limits,
    pause: (delayMs) => delay(delayMs, undefined, { signal: caller.interruption }).catch(() => {}),
    random: Math.random,
  };
  return caller;
}

function readWorkingDirectory(): string {
  try {
    return process.cwd();
  } catch {
    // It has been removed: absolute paths still work.
    process.chdir('/');
    return '/';
  }
}

const opened = new Set<NodeJS.WriteStream>();

/** Resolves once all that this process wrote has been taken: of what goes into a socket, `process.exit` loses what is not yet sent. */
export async function waitUntilWritten(): Promise<void> {
  await Promise.all([...opened].map((stream) => new Promise((resolve) => stream.write('', resolve))));
}

/** Node opens a standard stream at the first look at it, which a silent success never takes. */
function createWriter(open: () => NodeJS.WriteStream): (text: string) => void {
  let stream: NodeJS.WriteStream | undefined;
  return (text) => {
    if (stream === undefined) {
      stream = open();
      opened.add(stream);
      // Nobody reads any more: what we do matters, not who watches.
      stream.on('error', () => {});
    }
    stream.write(text);
  };
}

function catchSignals(): AbortSignal {
  const controller = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => controller.abort());
  return controller.signal;
}
