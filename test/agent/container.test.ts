import { execFile, spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { AgentStatus } from '../../src/core/control-protocol.ts';
import { type AgentStage, fileSystemId, openAgentStage, waitFor } from '../support/agent-stage.ts';

const run = promisify(execFile);
const bundles = resolve('dist');
const entry = resolve('contrib/container/entry');
const isolation = ['--mount', '--pid', '--fork', '--mount-proc', '--kill-child'];
const canIsolate = spawnSync('unshare', [...isolation, 'mount', '-t', 'tmpfs', 'tmpfs', '/run']).status === 0;
const dropped = ['--reuid', '12345', '--regid', '12345', '--clear-groups', '--bounding-set', '-all'];
// Node, and a checkout in a home directory, may be closed to that user.
const canDrop =
  spawnSync('setpriv', [...dropped, process.execPath, join(bundles, 'efs-agent.mjs'), '--version']).status ===
  0;
const options = 'tls,mounttargetip=127.0.0.1';

let stage: AgentStage;
let containers: Container[] = [];
let sockets: Socket[] = [];
beforeEach(() => {
  stage = openAgentStage([23150, 23159]);
  stage.standIn('mount.nfs4', 'echo "$@" >>/run/nfs-calls');
});
afterEach(async () => {
  for (const socket of sockets) socket.destroy();
  for (const { kill, ended } of containers) {
    kill();
    await ended;
  }
  containers = [];
  sockets = [];
  await stage.close();
});

interface Container {
  /** Process 1, as it is numbered outside. */
  pid: number;
  stderr(): string;
  ended: Promise<number | null>;
  kill(): void;
  /** Runs a program in the container. */
  run(...command: string[]): Promise<{ stdout: string; stderr: string }>;
  status(): Promise<AgentStatus>;
}

/** Process namespace, read-only root, empty `/run`, no systemd; `first` is process 1. */
async function startContainer(...first: string[]): Promise<Container> {
  const { EFS_AGENT_RUNTIME_DIR: _, ...environment } = stage.environment;
  const prepare = 'mount -t tmpfs tmpfs /run && mount -o remount,bind,ro / && echo ready >&2 && exec "$@"';
  const child = spawn('unshare', [...isolation, 'sh', '-c', prepare, 'sh', ...first], {
    env: environment,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk;
  });
  const ended = new Promise<number | null>((done) => child.once('exit', (status) => done(status)));
  await waitFor(() => stderr.includes('ready'), `the container: ${first.join(' ')}`);
  const pid = Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8'));
  const runInside = (...command: string[]) =>
    run('nsenter', ['--target', `${pid}`, '--mount', '--pid', '--', ...command], { env: environment });
  const container: Container = {
    pid,
    stderr: () => stderr,
    ended,
    kill: () => void child.kill('SIGKILL'),
    run: runInside,
    status: async () =>
      JSON.parse(
        (await runInside(process.execPath, join(bundles, 'efs-agent.mjs'), 'status', '--json')).stdout,
      ),
  };
  containers.push(container);
  return container;
}

const mountIn = (container: Container) =>
  container.run(join(stage.directory, 'mount.efs'), fileSystemId, stage.mountPoint, '-o', options);

async function startAgentContainer(graceSec: number): Promise<Container> {
  const agent = [process.execPath, join(bundles, 'efs-agent.mjs'), 'agent', '--container'];
  const container = await startContainer(entry, ...agent, '--grace', `${graceSec}`);
  await waitFor(() => container.stderr().includes('agent.ready'), 'the agent to be ready');
  return container;
}

/** A connection as the kernel's: with it the tunnel is in use. */
async function openSession(port: number): Promise<{ echo(text: string): Promise<string> }> {
  const socket = connect({ port, host: '127.0.0.1' });
  sockets.push(socket);
  await new Promise((done, fail) => socket.once('connect', done).once('error', fail));
  return {
    echo(text) {
      socket.write(text);
      return new Promise((done) => socket.once('data', (chunk) => done(String(chunk))));
    },
  };
}

test.skipIf(!canIsolate)(
  'without systemd, with a read-only root and any process 1, mount.efs starts the agent and it stays',
  async () => {
    await stage.startTarget();
    const container = await startContainer('sleep', '1000');

    const mounted = await mountIn(container);

    expect(mounted).toEqual({ stdout: '', stderr: '' });
    const { mounts } = await container.status();
    expect(mounts).toMatchObject([{ fileSystemId, mountPoint: stage.mountPoint, state: 'mounted' }]);
    expect((await container.run('cat', '/run/nfs-calls')).stdout).toContain(`port=${mounts[0]!.port}`);
    expect((await container.run('ls', '/run/efs-agent')).stdout.split('\n')).toContain('agent.log');
    const session = await openSession(mounts[0]!.port!);
    expect(await session.echo('through the tunnel')).toBe('through the tunnel');
    await expect(container.run('touch', join(stage.directory, 'written'))).rejects.toThrow(/Read-only/);
  },
);

test.skipIf(!canIsolate)(
  'after SIGTERM agent --container serves what is mounted until it is gone, then ends with 0',
  async () => {
    await stage.startTarget();
    const container = await startAgentContainer(60);
    await mountIn(container);
    const { mounts } = await container.status();
    const session = await openSession(mounts[0]!.port!);
    await session.echo('one');

    process.kill(container.pid, 'SIGTERM');
    await waitFor(() => container.stderr().includes('agent.stopping'), 'the agent to hear the signal');

    expect(await session.echo('two')).toBe('two');
    expect((await container.status()).mounts).toHaveLength(1);
    for (const socket of sockets) socket.destroy();
    expect(await container.ended).toBe(0);
    expect(container.stderr()).toMatch(/agent\.stopping reason=SIGTERM mounts=1 graceMs=60000/);
    expect(container.stderr()).toMatch(/agent\.stopped reason=SIGTERM mounts=0/);
  },
);

test.skipIf(!canIsolate)(
  'a mount that is still there when the grace is over does not keep the container, nor does it after a second signal',
  async () => {
    await stage.startTarget();
    for (const [graceSec, signals] of [
      [1, 1],
      [600, 2],
    ] as const) {
      const container = await startAgentContainer(graceSec);
      await mountIn(container);
      const session = await openSession((await container.status()).mounts[0]!.port!);
      await session.echo('in use');

      for (let signal = 0; signal < signals; signal += 1) {
        process.kill(container.pid, 'SIGTERM');
        await waitFor(() => container.stderr().includes('agent.stopping'), 'the agent to hear the signal');
      }

      expect(await container.ended).toBe(0);
      expect(container.stderr()).toMatch(/agent\.stopped reason=SIGTERM mounts=1/);
    }
  },
);

test.skipIf(!canIsolate)(
  'a container without mounts ends at once, and leaves no zombies before',
  async () => {
    const container = await startAgentContainer(600);
    // Its parent does not wait for it: a zombie would stay in /proc.
    const { stdout } = await container.run('sh', '-c', 'sleep 0.1 >/dev/null 2>&1 & echo $!');
    const isThere = () =>
      container.run('test', '-d', `/proc/${stdout.trim()}`).then(
        () => true,
        () => false,
      );
    await expect.poll(isThere).toBe(false);

    process.kill(container.pid, 'SIGTERM');

    expect(await container.ended).toBe(0);
  },
);

test.skipIf(!canIsolate)(
  'the agent of a container refuses to be replaced inside it, and goes on',
  async () => {
    await stage.startTarget();
    const container = await startAgentContainer(0);

    const takeover = container.run(process.execPath, join(bundles, 'efs-agent.mjs'), 'agent', '--takeover');

    await expect(takeover).rejects.toMatchObject({
      stderr: expect.stringMatching(
        /cannot be replaced inside it \[agent\.start-failed\]\n {2}Replace the container/,
      ),
    });
    expect(await mountIn(container)).toEqual({ stdout: '', stderr: '' });
  },
);

test('--container is not for an agent that leaves by itself, and its grace is a number', async () => {
  for (const [argv, message] of [
    [['--container', '--on-demand'], 'goes with neither'],
    [['--container', '--takeover'], 'goes with neither'],
    [['--container', '--grace', 'soon'], '--grace must be a whole number of seconds'],
    [['--container', '--grace=-1'], '--grace must be a whole number of seconds'],
  ] as const) {
    const ended = await stage.efsAgent('agent', ...argv);
    expect(ended).toMatchObject({ status: 1, stderr: expect.stringContaining(message) });
  }
});

test.skipIf(!canDrop)('a tunnel needs neither root nor a user that the machine knows', async () => {
  await stage.startTarget();
  await run('chown', ['-R', '12345:12345', stage.directory]);
  const command = [process.execPath, join(bundles, 'efs-agent.mjs'), 'tunnel', fileSystemId, '-o', options];
  const { HOME: _, ...env } = stage.environment;
  const tunnel = spawn('setpriv', [...dropped, ...command], { env });
  let said = '';
  for (const stream of [tunnel.stdout, tunnel.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      said += chunk;
    });
  }

  await expect.poll(() => said).toMatch(/^127\.0\.0\.1:\d+\n$/);

  const session = await openSession(Number(said.trim().split(':')[1]));
  expect(await session.echo('through the tunnel')).toBe('through the tunnel');
  const { pid } = await stage.status();
  tunnel.kill('SIGTERM');
  process.kill(pid!, 'SIGTERM');
});
