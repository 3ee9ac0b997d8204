import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { request } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { Ajv2020 } from 'ajv/dist/2020.js';
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest';
import type { StatusReport } from '../../src/core/status-report.ts';
import { type AgentStage, fileSystemId, openAgentStage, waitFor } from '../support/agent-stage.ts';
import { askForMount } from '../support/control-conversation.ts';

const schema = JSON.parse(readFileSync('docs/status.schema.json', 'utf8')) as object;
const isDocumented = new Ajv2020({ allErrors: true, allowUnionTypes: true }).compile(
  closeObjects(schema) as object,
);

let stage: AgentStage;
beforeEach(() => {
  stage = openAgentStage([23600, 23849]);
});
afterEach(() => stage.close());

/** The schema without room for fields that it does not describe. */
function closeObjects(part: unknown): unknown {
  if (Array.isArray(part)) return part.map(closeObjects);
  if (typeof part !== 'object' || part === null) return part;
  const closed = Object.fromEntries(Object.entries(part).map(([name, value]) => [name, closeObjects(value)]));
  return 'required' in part ? { additionalProperties: false, ...closed } : closed;
}

async function readStatus(): Promise<{ status: number | null; report: StatusReport }> {
  const { status, stdout } = await stage.efsAgent('status', '--json');
  const report = JSON.parse(stdout) as StatusReport;
  isDocumented(report);
  expect(isDocumented.errors).toBeNull();
  return { status, report };
}

/** As a program does that has other things to do before it reads what status wrote into its socket. */
async function readMountsLate(): Promise<unknown[]> {
  const server = createServer({ pauseOnConnect: true }).listen(join(stage.directory, 'reader.sock'));
  await once(server, 'listening');
  const reader = connect(join(stage.directory, 'reader.sock')).pause();
  const [writer] = (await once(server, 'connection')) as [Socket];
  const child = spawn(process.execPath, ['dist/efs-agent.mjs', 'status', '--json'], {
    env: stage.environment,
    stdio: ['ignore', writer, 'inherit'],
  });
  writer.destroy();
  server.close();
  await Promise.race([once(child, 'exit'), delay(2_000)]);
  return (JSON.parse(await text(reader)) as StatusReport).mounts;
}

async function mount(): Promise<number> {
  const options = 'tls,mounttargetip=127.0.0.1';
  expect(await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', options)).toMatchObject({ status: 0 });
  return Number(/port=(\d+)/.exec(stage.nfsCalls()[0]!)![1]);
}

/** Mounts without the processes of mount.efs and mount.nfs4; gives the port of the tunnel. */
async function mountQuickly(mountPoint: string): Promise<number | null> {
  const mounting = await askForMount(stage, mountPoint);
  const port = await mounting.ready();
  await mounting.confirm();
  mounting.hangUp();
  return port;
}

test('status --json is as its schema says: without an agent, with a mount, and after the agent is gone', async () => {
  await stage.startTarget();
  expect((await readStatus()).status).toBe(0);
  const agent = await stage.startAgent();
  await mount();

  const running = await readStatus();
  agent.child.kill('SIGKILL');
  await agent.ended;
  const gone = await readStatus();

  expect(running).toMatchObject({ status: 0, report: { agent: 'running', mounts: [{ state: 'mounted' }] } });
  expect(running.report.mounts[0]!.serverCertificateExpiresAtMs).toBeGreaterThan(Date.now());
  expect(gone).toMatchObject({ status: 3, report: { agent: 'absent', mounts: [{ state: 'unwatched' }] } });
});

test('status shows the bytes, the requests that wait for a silent mount target, and what went wrong', async () => {
  const target = await stage.startTarget();
  await stage.startAgent();
  const tunnel = stage.start('dist/efs-agent.mjs', [
    'tunnel',
    fileSystemId,
    ...['-o', 'tls,mounttargetip=127.0.0.1'],
  ]);
  await waitFor(() => tunnel.stdout().includes('\n'), 'the tunnel to be ready', tunnel);
  const kernel = connect({ port: Number(tunnel.stdout().split(':')[1]), host: '127.0.0.1' });
  kernel.on('error', () => {});
  // A call, which an echo sends back as a call: it stays without an answer.
  kernel.write(Buffer.from(`800000280000000100000000000000020001${'00'.repeat(26)}`, 'hex'));
  const only = async () => (await readStatus()).report.mounts[0]!;

  await expect
    .poll(only)
    .toMatchObject({ sessions: 1, connections: 1, requestsInFlight: 1, bytesUp: 44, bytesDown: 44 });
  target.resetAll();

  await expect.poll(only).toMatchObject({
    sessions: 0,
    requestsInFlight: 0,
    lastError: { code: 'target.closed', message: '127.0.0.1 broke the connection' },
  });
  kernel.destroy();
});

test('with 200 mounts of a mount target that hangs, status tells of them all; and when the agent is stopped, continued, dead', async () => {
  const target = await stage.startTarget(undefined, (socket) => void socket.resume());
  const agent = await stage.startAgent();
  // What status writes must be more than the kernel keeps for a reader.
  const longPath = `/mnt${'/directory'.repeat(40)}`;
  const ports = await Promise.all(
    Array.from({ length: 200 }, (_, index) => mountQuickly(`${longPath}/${index}`)),
  );
  const kernel = connect({ port: ports[0]!, host: '127.0.0.1' });
  kernel.on('error', () => {});
  onTestFinished(() => void kernel.destroy());
  kernel.write(Buffer.from(`800000280000000100000000000000020001${'00'.repeat(26)}`, 'hex'));
  const states = async () => {
    const { status, report } = await readStatus();
    // The one that waits for an answer is stalled after a while.
    const kinds = report.mounts.map(({ state }) => (state === 'stalled' ? 'mounted' : state));
    return { status, agent: report.agent, mounts: kinds.length, states: [...new Set(kinds)].sort() };
  };

  await expect
    .poll(async () => (await readStatus()).report.mounts.map(({ requestsInFlight }) => requestsInFlight), {
      timeout: 60_000,
    })
    .toContain(1);
  expect(await states()).toEqual({ status: 0, agent: 'running', mounts: 200, states: ['mounted'] });
  expect(await readMountsLate()).toHaveLength(200);
  agent.child.kill('SIGSTOP');
  expect(await states()).toEqual({ status: 3, agent: 'silent', mounts: 200, states: ['unwatched'] });
  agent.child.kill('SIGCONT');
  expect(await states()).toEqual({ status: 0, agent: 'running', mounts: 200, states: ['mounted'] });
  agent.child.kill('SIGKILL');
  await agent.ended;
  expect(await states()).toEqual({ status: 3, agent: 'absent', mounts: 200, states: ['unwatched'] });
  await target.close();
});

test('status says that a mount reconnects while its mount target is away, and why', async () => {
  const target = await stage.startTarget();
  const agent = await stage.startAgent();
  const port = await mount();
  await target.close();
  const kernel = connect({ port, host: '127.0.0.1' });
  kernel.on('error', () => {});
  await waitFor(() => agent.stderr().includes('upstream.failed'), 'the worker to fail', agent);

  await expect
    .poll(async () => (await readStatus()).report.mounts[0]!)
    .toMatchObject({ state: 'reconnecting', lastError: { code: 'target.refused' } });
  kernel.destroy();
});

test('the log level of a running agent changes, and goes back by itself', async () => {
  await stage.startTarget();
  const agent = await stage.startAgent();

  const changed = await stage.efsAgent('log-level', 'debug', '--for', '1s');

  expect(changed.stdout).toMatch(/^the log level is debug until 20\S+Z; configured is info\n$/);
  await waitFor(
    () => agent.stderr().includes('log-level.changed from=debug to=info'),
    'the level to return',
    agent,
  );
  expect((await stage.efsAgent('log-level', '--json')).stdout).toBe(
    '{"level":"info","configured":"info","untilMs":null}\n',
  );
});

test('metrics are served on the socket, and on TCP when that is configured, with the bytes of each mount', async () => {
  const { port } = await stage.startTarget();
  stage.configure([], [`mount_target_port = ${port}`, 'max_connections = 1', 'metrics_listen = 23850']);
  const agent = await stage.startAgent();
  await mount();

  const scrape = async (where: object) => {
    const [response] = await once(request({ ...where, path: '/metrics' }).end(), 'response');
    let text = '';
    for await (const chunk of response) text += chunk;
    return text;
  };
  const socketPath = join(stage.runtimeDir, 'metrics.sock');

  expect(await scrape({ socketPath })).toMatch(/^efs_mount_up\{mount="fs-0123456789abcdef0\.\S+\} 1$/m);
  expect(await scrape({ port: 23_850, host: '127.0.0.1' })).toMatch(
    /^efs_agent_process_resident_memory_bytes\{process="worker"\} [1-9]\d{6,}$/m,
  );
  agent.child.kill('SIGTERM');
  await agent.ended;
  expect(existsSync(socketPath)).toBe(false);
});
