import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import type { AddressInfo, Socket } from 'node:net';
import { join, resolve } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import tls, { type TLSSocket } from 'node:tls';
import type { AgentStatus } from '../../src/core/control-protocol.ts';
import { type MountTable, openMountTable } from './mount-table.ts';
import { agentsOf } from './processes.ts';
import { createTemporaryCa, type TemporaryCa, type TemporaryCertificateOptions } from './temporary-ca.ts';
import { createTemporaryDirectory } from './temporary-directory.ts';

const bundles = resolve(import.meta.dirname, '../../dist');

export interface Ended {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** A program that runs until the stage closes or it ends by itself. */
export interface Running {
  child: ChildProcess;
  /** Everything it has written so far. */
  stdout(): string;
  stderr(): string;
  ended: Promise<Ended>;
}

/** A TLS server in the place of the mount target that sends back what it gets. */
export interface EchoTarget {
  port: number;
  /** Connections it has accepted so far, handshake done. */
  accepted(): number;
  open(): number;
  /** Resets every connection. */
  resetAll(): void;
  close(): Promise<void>;
}

export interface LocalTarget {
  metadataEndpoint: string;
  /** The directory behind the file system. */
  exported: string;
  /** Event lines written so far. */
  events(): Record<string, unknown>[];
}

/** An agent of its own: runtime directory, configuration, PATH with a stand-in `mount.nfs4`. */
export interface AgentStage {
  directory: string;
  runtimeDir: string;
  mountPoint: string;
  ca: TemporaryCa;
  environment: NodeJS.ProcessEnv;
  /** Writes the configuration again: lines for `[mount]` and lines for `[agent]`. */
  configure(mount: string[], agent: string[]): void;
  startTarget(
    certificate?: TemporaryCertificateOptions,
    serve?: (socket: TLSSocket) => void,
  ): Promise<EchoTarget>;
  /** The local mount target of efs-agent itself, with instance metadata; configures the agent for it. */
  startLocalTarget(policy: object | null): Promise<LocalTarget>;
  startAgent(): Promise<Running>;
  /** From now on agents see the mounts of the stand-in mount.nfs4 in a mount table, until `unmount`. */
  useMountTable(): Promise<MountTable>;
  /** `mount.efs` as mount(8) calls it. */
  mountEfs(...argv: string[]): Promise<Ended>;
  umountEfs(...argv: string[]): Promise<Ended>;
  efsAgent(...argv: string[]): Promise<Ended>;
  start(program: string, argv: string[]): Running;
  status(): Promise<AgentStatus>;
  /** The status once every mount has its connection. */
  settledStatus(): Promise<AgentStatus>;
  /** Replaces the stand-in: a shell script's body. */
  standIn(name: string, body: string): void;
  /** What the stand-in mount.nfs4 was called with, a line each. */
  nfsCalls(): string[];
  stateFiles(): string[];
  close(): Promise<void>;
}

export const fileSystemId = 'fs-0123456789abcdef0';
export const targetName = '*.efs.us-east-1.amazonaws.com';

/** @param portRange first and last local port of this stage's tunnels: stages that run side by side need their own. */
export function openAgentStage(portRange: [number, number]): AgentStage {
  const directory = createTemporaryDirectory();
  const runtimeDir = join(directory, 'run');
  const bin = join(directory, 'bin');
  const mountPoint = join(directory, 'mnt');
  const caFile = join(directory, 'ca.pem');
  const calls = join(directory, 'nfs-calls');
  const conf = join(directory, 'efs-utils.conf');
  mkdirSync(bin);
  mkdirSync(mountPoint);
  for (const name of ['mount.efs', 'umount.efs'])
    symlinkSync(join(bundles, 'mount-efs.cjs'), join(directory, name));
  const ca = createTemporaryCa();
  writeFileSync(caFile, ca.rootPem);
  writeFileSync(calls, '');
  const environment: NodeJS.ProcessEnv = {
    PATH: `${bin}:${process.env['PATH']}`,
    HOME: directory,
    EFS_AGENT_RUNTIME_DIR: runtimeDir,
    EFS_AGENT_CONFIG: conf,
  };
  const running = new Set<Running>();
  const targets = new Set<EchoTarget>();
  let table: MountTable | null = null;
  const keep = (started: Running) => {
    running.add(started);
    void started.ended.then(() => running.delete(started));
    return started;
  };

  const stage: AgentStage = {
    directory,
    runtimeDir,
    mountPoint,
    ca,
    environment,
    configure(mount, agent) {
      const range = [
        `port_range_lower_bound = ${portRange[0]}`,
        `port_range_upper_bound = ${portRange[1] + 1}`,
      ];
      const lines = [
        '[mount]',
        'region = us-east-1',
        `stunnel_cafile = ${caFile}`,
        ...range,
        ...mount,
        '[agent]',
        ...agent,
      ];
      writeFileSync(conf, `${lines.join('\n')}\n`);
    },
    async startTarget(options = { names: [targetName] }, serve = (socket) => void socket.pipe(socket)) {
      const target = await startEchoTarget(ca, options, serve);
      targets.add(target);
      // An echo is no mount target: it would send a bind call back.
      stage.configure([], [`mount_target_port = ${target.port}`, 'max_connections = 1']);
      return target;
    },
    async startLocalTarget(policy) {
      const exported = join(directory, 'exported');
      const events = join(directory, 'events');
      const policyFile = join(directory, 'policy.json');
      mkdirSync(exported);
      if (policy !== null) writeFileSync(policyFile, JSON.stringify(policy));
      const target = stage.start(join(bundles, 'efs-agent.mjs'), [
        'target',
        '--json',
        ...['--listen', '127.0.0.1:0', '--metadata', '127.0.0.1:0', '--events', events],
        ...['--file-system', `${fileSystemId}=${exported}`, '--state-dir', join(directory, 'target')],
        ...(policy === null ? [] : ['--policy', policyFile]),
      ]);
      await waitFor(() => target.stdout().includes('\n'), 'the local mount target to be ready', target);
      const ready = JSON.parse(target.stdout()) as {
        caFile: string;
        metadataEndpoint: string;
        listen: { port: number }[];
      };
      writeFileSync(caFile, readFileSync(ready.caFile));
      stage.configure(
        [],
        [`metadata_endpoint = ${ready.metadataEndpoint}`, `mount_target_port = ${ready.listen[0]!.port}`],
      );
      const lines = () => readFileSync(events, 'utf8').split('\n').filter(Boolean);
      return {
        metadataEndpoint: ready.metadataEndpoint,
        exported,
        events: () => lines().map((line) => JSON.parse(line) as Record<string, unknown>),
      };
    },
    async startAgent() {
      const [program, ...argv] = [
        ...(table?.wrapper ?? []),
        process.execPath,
        join(bundles, 'agent.cjs'),
      ] as const;
      const agent = keep(startProgram(program, argv, environment));
      await waitFor(() => agent.stderr().includes('agent.ready'), 'the agent to be ready', agent);
      return agent;
    },
    mountEfs: (...argv) => stage.start(join(directory, 'mount.efs'), argv).ended,
    umountEfs: (...argv) => stage.start(join(directory, 'umount.efs'), argv).ended,
    efsAgent: (...argv) => stage.start(join(bundles, 'efs-agent.mjs'), argv).ended,
    async useMountTable() {
      table = await openMountTable(directory);
      stage.standIn('mount.nfs4', `echo "$@" >> ${calls}\n${table.mountScript}`);
      return table;
    },
    start: (program, argv) => keep(startProgram(process.execPath, [program, ...argv], environment)),
    async status() {
      const { stdout } = await stage.efsAgent('status', '--json');
      return JSON.parse(stdout) as AgentStatus;
    },
    async settledStatus() {
      const giveUpMonoMs = performance.now() + 60_000;
      for (;;) {
        const status = await stage.status();
        if (status.mounts.every(({ state }) => state === 'mounted') || performance.now() > giveUpMonoMs)
          return status;
      }
    },
    standIn(name, body) {
      writeFileSync(join(bin, name), `#!/bin/sh\n${body}\n`);
      chmodSync(join(bin, name), 0o755);
    },
    nfsCalls: () => readFileSync(calls, 'utf8').split('\n').filter(Boolean),
    stateFiles: () => readdirSync(join(runtimeDir, 'mounts')),
    async close() {
      for (const { child } of running) {
        child.kill('SIGTERM');
        // One that a test has stopped hears nothing else.
        child.kill('SIGCONT');
      }
      await Promise.all([...running].map(({ ended }) => ended));
      // Those that a helper or another agent started; they write to the directory until their end.
      for (const pid of agentsOf(runtimeDir)) process.kill(pid, 'SIGTERM');
      await waitFor(() => agentsOf(runtimeDir).length === 0, 'the agents of the stage to end');
      await Promise.all([...targets].map((target) => target.close()));
      table?.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
  stage.configure([], []);
  stage.standIn('mount.nfs4', `echo "$@" >> ${calls}`);
  return stage;
}

/** Waits for a condition with a deadline; on failure says what the program had written. */
export async function waitFor(fits: () => boolean, what: string, program?: Running): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (!fits()) {
    if (performance.now() > deadline)
      throw new Error(`waited in vain for ${what}\n${program?.stderr() ?? ''}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function startProgram(program: string, argv: string[], environment: NodeJS.ProcessEnv): Running {
  const child = spawn(program, argv, { env: environment, stdio: ['ignore', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk;
  });
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk;
  });
  // Not 'close' of all: an agent that the program started may hold its standard error open.
  const ended = Promise.all([once(child, 'exit'), once(child.stdout, 'close')]).then(
    async ([[status]]): Promise<Ended> => {
      await setImmediate();
      return { status, stdout, stderr };
    },
  );
  return { child, stdout: () => stdout, stderr: () => stderr, ended };
}

async function startEchoTarget(
  ca: TemporaryCa,
  options: TemporaryCertificateOptions,
  serve: (socket: TLSSocket) => void,
): Promise<EchoTarget> {
  const certificate = ca.issue(options);
  const sockets = new Set<Socket>();
  let accepted = 0;
  const server = tls.createServer(
    {
      key: certificate.privateKeyPem,
      cert: certificate.certificatePem,
      requestCert: true,
      rejectUnauthorized: false,
    },
    (socket) => {
      accepted += 1;
      socket.on('error', () => socket.destroy());
      serve(socket);
    },
  );
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    accepted: () => accepted,
    open: () => sockets.size,
    resetAll() {
      for (const socket of sockets) socket.resetAndDestroy();
    },
    close() {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(() => resolve()));
    },
  };
}
