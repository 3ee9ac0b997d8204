import { spawn } from 'node:child_process';
import { closeSync, constants, existsSync, fstatSync, mkdirSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { AgentError, faults } from '../core/errors.ts';
import { smallHeap } from '../core/small-heap.ts';
import { findProgram, runProgram } from '../host/programs.ts';
import { controlSocketPath, networkNamespaceDirectories, runtimeDir } from '../host/runtime-dir.ts';
import { agentDirectory, type Caller } from './caller.ts';
import { type AgentConnection, connectToAgent } from './control-client.ts';
import { throwIfInterrupted } from './conversation.ts';

const defaultRuntimeDir = runtimeDir({});
const socketUnit = 'efs-agent.socket';
const serviceUnit = 'efs-agent.service';

/** systemctl's status for a unit that does not exist (LSB: program is not installed). */
const notInstalled = 5;

const connectPauseMs = 20;
const systemctlTimeoutMs = 30_000;

/** A core file of the agent would hold keys and credentials; Node cannot set a limit itself. */
const withoutCoreFiles = ['/bin/sh', '-c', 'ulimit -c 0; exec "$@"', 'sh'];

/** Variables an agent that we start keeps; above all no `AWS_*`: one caller's identity is not another's. */
const agentEnvironment = ['PATH', 'LANG', 'LC_ALL', 'TZ', 'EFS_AGENT_CONFIG'];

/**
 * Connects to the agent and starts it if it does not run: through systemd where that has our unit, else itself.
 *
 * Errors: `agent.start-failed` with the agent's last line; `agent.unreachable` when it does not answer in time.
 */
export async function openAgent(caller: Caller): Promise<AgentConnection> {
  const directory = agentDirectory(caller);
  const running = await connectToAgent(controlSocketPath(directory));
  if (running !== null) return running;
  const started = (await startThroughSystemd(directory, caller)) ? neverEnds : spawnAgent(directory, caller);
  return waitForAgent(directory, started, caller);
}

/**
 * Connects to the agent if it runs; null if not. Never starts one, not even by touching systemd's socket.
 *
 * Errors: `agent.unreachable`.
 */
export async function findAgent(caller: Caller): Promise<AgentConnection | null> {
  const directory = agentDirectory(caller);
  if (isDefaultOnSystemd(directory, caller)) {
    const systemctl = findProgram('systemctl', caller.environment['PATH']);
    const states =
      systemctl === null
        ? ''
        : (await runSystemctl(systemctl, ['is-active', socketUnit, serviceUnit], caller)).stdout;
    if (/^active\n(?:inactive|failed)\n/.test(states)) return null;
  }
  return connectToAgent(controlSocketPath(directory));
}

/** Connects to the agent of a runtime directory if it runs; null if not. Errors: `agent.unreachable`. */
export function findAgentIn(directory: string): Promise<AgentConnection | null> {
  return connectToAgent(controlSocketPath(directory));
}

/** Runtime directories of agents of other network namespaces, whether they run or not. */
export function otherDirectories(caller: Caller): string[] {
  const own = agentDirectory(caller);
  const base = runtimeDir(caller.environment);
  return [base, ...networkNamespaceDirectories(base)].filter((directory) => directory !== own);
}

/** Connects to the agents of other network namespaces that run. Errors: `agent.unreachable`. */
export async function findOtherAgents(caller: Caller): Promise<AgentConnection[]> {
  const found = await Promise.all(otherDirectories(caller).map(findAgentIn));
  return found.filter((agent) => agent !== null);
}

/** What is known of an agent that was started: why it ended, or null while it runs. */
type Started = () => { kind: 'failed'; lastLine: string } | { kind: 'busy' } | null;

const neverEnds: Started = () => null;

function isDefaultOnSystemd(directory: string, caller: Caller): boolean {
  return directory === defaultRuntimeDir && existsSync(caller.files.systemd);
}

async function startThroughSystemd(directory: string, caller: Caller): Promise<boolean> {
  if (!isDefaultOnSystemd(directory, caller)) return false;
  const systemctl = findProgram('systemctl', caller.environment['PATH']);
  if (systemctl === null) return false;
  const { end, stderr } = await runSystemctl(systemctl, ['start', socketUnit], caller);
  if (end.kind === 'exited' && (end.status === 0 || end.status === notInstalled)) return end.status === 0;
  throw new AgentError(
    'agent.start-failed',
    `systemctl start ${socketUnit} failed: ${lastLineOf(stderr) || end.kind}`,
  );
}

function runSystemctl(systemctl: string, args: string[], caller: Caller) {
  return runProgram(systemctl, args, {
    timeoutMs: systemctlTimeoutMs,
    signal: caller.interruption,
    environment: caller.environment,
  });
}

function spawnAgent(directory: string, caller: Caller): Started {
  const bundle = caller.agentBundle();
  if (!existsSync(bundle))
    throw new AgentError('agent.start-failed', `the agent's program ${bundle} does not exist`);
  const log = openLog(directory);
  const logStart = fstatSync(log).size;
  const environment = {
    ...Object.fromEntries(agentEnvironment.map((name) => [name, caller.environment[name]])),
    EFS_AGENT_RUNTIME_DIR: directory,
  };
  const [program = '', ...args] = [
    ...findScope(caller),
    ...withoutCoreFiles,
    process.execPath,
    ...smallHeap,
    bundle,
    '--on-demand',
  ];
  const child = spawn(program, args, {
    detached: true,
    cwd: '/',
    env: environment,
    stdio: ['ignore', 'ignore', log],
  });
  let ended: string | null = null;
  child.once('error', (cause) => {
    ended = cause.message;
  });
  child.once('exit', (status, signal) => {
    ended = `it ended with ${signal ?? `status ${status}`}`;
  });
  child.unref();
  return () => {
    if (ended === null) return null;
    const said = readFrom(log, logStart);
    // Another helper's agent was faster and will answer.
    if (said.includes('agent.busy')) return { kind: 'busy' };
    closeSync(log);
    return { kind: 'failed', lastLine: lastLineOf(said) || ended };
  };
}

/**
 * Under systemd an agent that we start gets a control group of its own: in that of a mount unit, or of the service that
 * mounts, it would be ended with it, and all other mounts with the agent. The namespaces stay the caller's.
 */
function findScope(caller: Caller): string[] {
  const program = existsSync(caller.files.systemd)
    ? findProgram('systemd-run', caller.environment['PATH'])
    : null;
  return program === null ? [] : [program, '--scope', '--quiet', '--collect', '--'];
}

async function waitForAgent(directory: string, started: Started, caller: Caller): Promise<AgentConnection> {
  const socketPath = controlSocketPath(directory);
  const deadlineMs = performance.now() + caller.limits.agentStartMs;
  while (performance.now() < deadlineMs && !caller.interruption.aborted) {
    const end = started();
    const connection = await connectToAgent(socketPath);
    if (connection !== null) return connection;
    if (end?.kind === 'failed')
      throw new AgentError(
        'agent.start-failed',
        `the agent did not start: ${end.lastLine}`,
        startHint(directory, caller),
      );
    await caller.pause(connectPauseMs);
  }
  throwIfInterrupted(caller);
  throw new AgentError(
    'agent.unreachable',
    `the agent was started and did not listen on ${socketPath} within ${caller.limits.agentStartMs / 1_000} s`,
    startHint(directory, caller),
  );
}

function startHint(directory: string, caller: Caller): { hint: string } | Record<string, never> {
  return isDefaultOnSystemd(directory, caller)
    ? {}
    : { hint: `Read ${logPath(directory)}, or run efs-agent agent in a terminal to see why.` };
}

function logPath(directory: string): string {
  return join(directory, 'agent.log');
}

function openLog(directory: string): number {
  try {
    mkdirSync(directory, { recursive: true, mode: 0o755 });
    const { O_APPEND, O_CREAT, O_NOFOLLOW, O_RDWR } = constants;
    const log = openSync(logPath(directory), O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW, 0o600);
    const found = fstatSync(log);
    // In a directory of somebody else it may be a pipe, or another name of a file that is ours alone.
    if (found.isFile() && found.nlink === 1) return log;
    closeSync(log);
    throw Object.assign(new Error(), { code: 'not a file of its own', path: logPath(directory) });
  } catch (cause) {
    const { code, path } = cause as NodeJS.ErrnoException;
    throw new AgentError(
      'agent.start-failed',
      `the agent was not started: cannot use the runtime directory ${directory}: ${code} at ${path}`,
      { directory, hint: faults['runtime-dir.unusable'].hint },
      cause,
    );
  }
}

function readFrom(file: number, start: number): string {
  const bytes = Buffer.alloc(Math.max(0, Math.min(64 * 1024, fstatSync(file).size - start)));
  return bytes.toString('utf8', 0, readSync(file, bytes, 0, bytes.length, start));
}

/** The last line that is no continuation: our own errors end with an indented hint. */
function lastLineOf(text: string): string {
  return (
    text
      .split('\n')
      .findLast((line) => /^\S/.test(line))
      ?.trim() ?? ''
  );
}
