import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import {
  type AgentMessage,
  type AgentStatus,
  type ClientMessage,
  createLineSplitter,
  formatMessage,
  parseClientMessage,
  type ServedMount,
} from '../../src/core/control-protocol.ts';
import type { StatusReport } from '../../src/core/status-report.ts';
import type { Caller } from '../../src/helper/caller.ts';

const standIns = resolve(import.meta.dirname, '../support/stand-in');

/** What the agent in a test answers to a message. */
export type Script = (
  message: ClientMessage,
  reply: (...messages: AgentMessage[]) => void,
  socket: Socket,
) => void;

/** A conversation as the agent saw it. */
export interface Conversation {
  messages: ClientMessage[];
  ended: boolean;
  hangUp(): void;
}

/** A directory with a control socket, stand-in programs in PATH, and a mount table of its own. */
export interface HelperStage {
  directory: string;
  mountPoint: string;
  environment: Record<string, string>;
  /** Listens on the control socket and answers as the script says. */
  listen(script: Script): Promise<Conversation[]>;
  /** What the stand-in mount.nfs4 does at its first, second, … call. */
  plan(...steps: string[]): void;
  calls(program: 'mount' | 'umount'): string[];
  /** The process id of the last stand-in mount.nfs4. */
  mountPid(): number | null;
  mountTable(): string;
  write(name: string, text: string): void;
  /** A caller inside this process; what it writes is kept. */
  caller(changes?: Partial<Caller>): TestCaller;
  close(): Promise<void>;
}

export interface TestCaller extends Caller {
  out: string;
  error: string;
  pausesMs: number[];
  interrupt(): void;
}

export const fileSystemId = 'fs-0123456789abcdef0';

export function openHelperStage(): HelperStage {
  const directory = mkdtempSync(join(tmpdir(), 'efs-helper-test-'));
  const runtimeDir = join(directory, 'run');
  const mountPoint = join(directory, 'mnt');
  const mountInfo = join(directory, 'mountinfo');
  mkdirSync(runtimeDir);
  mkdirSync(mountPoint);
  mkdirSync(join(directory, 'bdi/0:55'), { recursive: true });
  writeFileSync(join(directory, 'bdi/0:55/read_ahead_kb'), '128\n');
  writeFileSync(mountInfo, '25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n');
  writeFileSync(join(directory, 'plan'), '');
  writeFileSync(join(directory, 'osrelease'), '6.1.0-13-cloud-amd64\n');
  const servers: Server[] = [];
  const sockets = new Set<Socket>();
  const environment = {
    PATH: `${standIns}:${process.env['PATH']}`,
    STAND_IN: directory,
    EFS_AGENT_RUNTIME_DIR: runtimeDir,
  };
  const read = (name: string) =>
    existsSync(join(directory, name)) ? readFileSync(join(directory, name), 'utf8') : '';

  return {
    directory,
    mountPoint,
    environment,
    async listen(script) {
      const conversations: Conversation[] = [];
      const server = createServer((socket) => {
        sockets.add(socket);
        const conversation: Conversation = { messages: [], ended: false, hangUp: () => socket.destroy() };
        conversations.push(conversation);
        const split = createLineSplitter();
        socket.on('data', (chunk) => {
          for (const message of split(chunk).map(parseClientMessage)) {
            conversation.messages.push(message);
            script(message, (...replies) => socket.write(replies.map(formatMessage).join('')), socket);
          }
        });
        socket.on('error', () => {});
        socket.on('close', () => {
          conversation.ended = true;
        });
      });
      servers.push(server);
      await new Promise<void>((done) => server.listen(join(runtimeDir, 'control.sock'), done));
      return conversations;
    },
    plan: (...steps) => writeFileSync(join(directory, 'plan'), `${steps.join('\n')}\n`),
    calls: (program) => read(`${program}-calls`).split('\n').filter(Boolean),
    mountPid: () => Number(read('mount-pid')) || null,
    mountTable: () => read('mountinfo'),
    write: (name, text) => writeFileSync(join(directory, name), text),
    caller(changes = {}) {
      const controller = new AbortController();
      const caller: TestCaller = {
        program: 'mount.efs',
        environment,
        uid: 0,
        workingDirectory: directory,
        writeOut: (text) => {
          caller.out += text;
        },
        writeError: (text) => {
          caller.error += text;
        },
        stderrIsTerminal: false,
        outColumns: null,
        interruption: controller.signal,
        agentBundle: () => join(directory, 'agent.cjs'),
        command: ['/bin/false'],
        networkNamespace: () => null,
        files: {
          mountInfo,
          bdi: join(directory, 'bdi'),
          kernelRelease: join(directory, 'osrelease'),
          systemd: join(directory, 'systemd'),
          readAheadResetter: join(directory, 'nfsrahead'),
        },
        limits: {
          lastAttemptMs: 20_000,
          silenceMs: 20_000,
          slowMountMs: 20_000,
          agentStartMs: 20_000,
          closeMs: 20_000,
          lookMs: 20_000,
        },
        pause: async (delayMs) => {
          caller.pausesMs.push(delayMs);
          await new Promise((done) => setTimeout(done, Math.min(delayMs, 20)));
        },
        random: () => 0.5,
        out: '',
        error: '',
        pausesMs: [],
        interrupt: () => controller.abort(),
        ...changes,
      };
      return caller;
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await Promise.all(servers.map((server) => new Promise((done) => server.close(done))));
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** The report that `efs-agent status` makes of that status. */
export function reportOf(
  mountPoint: string | null,
  changes: Partial<StatusReport['mounts'][number]> = {},
): StatusReport {
  const { mounts, ...agent } = statusOf(mountPoint);
  return {
    schemaVersion: 1,
    agent: 'running',
    ...agent,
    mounts: mounts.map((mount) => ({
      ...mount,
      mountPoints: mountPoint === null ? [] : [mountPoint],
      ...changes,
    })),
    otherNetworkNamespaces: [],
  };
}

/** The agent's part in a mount: a tunnel on port 20049, then recorded if mount.nfs4 succeeded, else refused. */
export function mountScript(
  changes: {
    attempts?: number;
    attemptTimeoutMs?: number;
    failure?: AgentMessage;
    /** Without a tunnel: what mount.nfs4 connects to. */
    server?: string;
    /** What is served at the mount point already. */
    served?: ServedMount | null;
    /** Whether `unmounted` finds a tunnel. */
    found?: boolean;
  } = {},
): Script {
  const { attempts = 3, attemptTimeoutMs = 15_000 } = changes;
  return (message, reply) => {
    if (message.kind === 'tunnel.open') {
      reply(
        { kind: 'progress', phase: 'name', elapsedMs: 1 },
        {
          kind: 'tunnel.ready',
          server: changes.server ?? '127.0.0.1',
          port: changes.server === undefined ? 20_049 : null,
          dnsName: `${fileSystemId}.efs.us-east-1.amazonaws.com`,
          fileSystemId,
          retry: { attempts, attemptTimeoutMs },
          readAhead: true,
        },
      );
    }
    if (message.kind === 'mount.ended') {
      const failed: AgentMessage = {
        kind: 'failed',
        error: { code: 'nfs.failed', message: `mount.nfs4 ended with status ${message.status}`, details: {} },
      };
      reply(changes.failure ?? (message.status === 0 ? { kind: 'mounted' } : failed));
    }
    if (message.kind === 'compare') reply({ kind: 'compared', served: changes.served ?? null });
    if (message.kind === 'unmounted') reply({ kind: 'closed', found: changes.found ?? true });
  };
}

/** The status of an agent with one mount. */
export function statusOf(
  mountPoint: string | null,
  changes: Partial<AgentStatus['mounts'][number]> = {},
): AgentStatus {
  return {
    version: '0.1.0',
    pid: 4_711,
    startedAtMs: Date.UTC(2026, 10, 23, 12, 0, 0),
    worker: { pid: 4_712, state: 'serving', restarts: 0, bufferedBytes: 65_536 },
    mounts: [
      {
        mountId: 'm1',
        fileSystemId,
        accessPointId: null,
        path: '/',
        mountPoint,
        state: 'mounted',
        tls: true,
        iam: true,
        port: 20_049,
        dnsName: `${fileSystemId}.efs.us-east-1.amazonaws.com`,
        address: '10.1.1.6',
        tlsVersion: 'TLSv1.3',
        cipher: 'TLS_AES_256_GCM_SHA384',
        serverCertificateExpiresAtMs: null,
        identity: {
          source: 'instance role',
          arn: 'arn:aws:sts::111122223333:assumed-role/efs-client/i-0123456789abcdef0',
          accessKeyId: 'ASIAEXAMPLE',
          expiresAtMs: null,
        },
        clientCertificateExpiresAtMs: Date.UTC(2026, 10, 23, 15, 30, 0),
        sessions: 1,
        connections: 1,
        reconnects: 2,
        bytesUp: 12_345_678,
        bytesDown: 9_876_543_210,
        bytesUpPerSecond: 2_048,
        bytesDownPerSecond: 131_072,
        requestsInFlight: 3,
        oldestRequestMs: 1_000,
        alarm: null,
        lastError: null,
        ...changes,
      },
    ],
  };
}

/** Whether a process with this id exists. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
