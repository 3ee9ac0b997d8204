import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createLocalUsersCheck } from '../../src/agent/local-users.ts';
import { systemClock } from '../../src/host/clock.ts';
import { findSocketOwners } from '../../src/host/socket-owners.ts';
import { type AgentStage, fileSystemId, openAgentStage, waitFor } from '../support/agent-stage.ts';

const nobody = 65_534;

let stage: AgentStage;
beforeEach(() => {
  stage = openAgentStage([23900, 23949]);
});
afterEach(() => stage.close());

/** Ways of a local program to reach a listener on 127.0.0.1, and what it gets from a tunnel by default. */
const verdicts = [
  { user: 'root', uid: 0, host: '127.0.0.1', how: 'stays', verdict: 'hello' },
  { user: 'root', uid: 0, host: '::ffff:127.0.0.1', how: 'stays', verdict: 'hello' },
  { user: 'root', uid: 0, host: '127.0.0.1', how: 'half-closes', verdict: 'hello' },
  { user: 'another user', uid: nobody, host: '127.0.0.1', how: 'stays', verdict: 'reset' },
  { user: 'another user', uid: nobody, host: '::ffff:127.0.0.1', how: 'stays', verdict: 'reset' },
  { user: 'another user', uid: nobody, host: '127.0.0.1', how: 'half-closes', verdict: 'reset' },
  { user: 'another user', uid: nobody, host: '127.0.0.1', how: 'leaves', verdict: 'left' },
] as const;

test('only root and the kernel get through a tunnel, however a user connects; a refusal is logged once', async ({
  skip,
}) => {
  skip(process.getuid?.() !== 0, 'not here: only root can start programs of other users');
  const target = await stage.startTarget();
  const agent = await stage.startAgent();
  const port = await openTunnel();
  const said: unknown[] = [];

  for (const row of verdicts) said.push({ ...row, verdict: await askAs(row.uid, row.host, port, row.how) });

  expect(said).toEqual(verdicts);
  expect(agent.stderr().match(/connection\.refused/g)).toHaveLength(1);
  expect(agent.stderr()).toContain(`uid=${nobody}`);
  // The probe is the warm connection of the first; nothing of a refused one reached the mount target.
  expect(target.accepted()).toBe(3);
});

test('users that allow_local_users names, and with "any" everybody, get through', async ({ skip }) => {
  skip(process.getuid?.() !== 0, 'not here: only root can start programs of other users');
  const target = await stage.startTarget();
  const base = [`mount_target_port = ${target.port}`, 'max_connections = 1'];
  const verdict = async (allowed: string) => {
    stage.configure([], [...base, `allow_local_users = ${allowed}`]);
    const agent = await stage.startAgent();
    const answer = await askAs(nobody, '127.0.0.1', await openTunnel(), 'stays');
    agent.child.kill('SIGTERM');
    await agent.ended;
    return answer;
  };

  expect(await verdict('daemon')).toBe('reset');
  expect(await verdict(`daemon,${nobody}`)).toBe('hello');
  expect(await verdict('any')).toBe('hello');
});

test('a user that does not exist is named in the log, and lets nobody in', async () => {
  const target = await stage.startTarget();
  stage.configure([], [`mount_target_port = ${target.port}`, 'allow_local_users = no-such-user']);

  const agent = await stage.startAgent();

  expect(agent.stderr()).toContain('allow_local_users: there is no user no-such-user');
});

test('a thousand connections at once are looked up in a few passes, and each gets its own verdict', async () => {
  const server = createServer({ pauseOnConnect: true });
  server.listen({ port: 0, host: '127.0.0.1', backlog: 1_024 });
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  const accepted: Socket[] = [];
  server.on('connection', (socket) => accepted.push(socket));
  const clients = Array.from({ length: 1_000 }, () => connect({ port, host: '127.0.0.1' }));
  await expect.poll(() => accepted.length).toBe(clients.length);
  let passes = 0;
  const check = createLocalUsersCheck({
    clock: systemClock,
    log: () => {},
    allowedUids: new Set([process.getuid?.() ?? 0]),
    findSocketOwners(connections) {
      passes += 1;
      return findSocketOwners(connections);
    },
  });

  const admitted = await Promise.all(accepted.map((socket) => check.admit(socket, fileSystemId)));

  expect(admitted.every(Boolean)).toBe(true);
  expect(passes).toBeLessThanOrEqual(2);
  for (const socket of [...accepted, ...clients]) socket.destroy();
  server.close();
});

test('a flood is refused beyond a bound, and a table that cannot be read lets nobody in', async () => {
  const lines: unknown[] = [];
  let fail: (error: Error) => void = () => {};
  const check = createLocalUsersCheck({
    clock: systemClock,
    log: (_level, event, fields) => void lines.push([event, fields?.['reason']]),
    allowedUids: new Set([0]),
    findSocketOwners: () => new Promise((_resolve, reject) => (fail = reject)),
  });
  const socket = {
    remoteAddress: '127.0.0.1',
    remotePort: 1,
    localAddress: '127.0.0.1',
    localPort: 2,
    destroyed: false,
  } as Socket;

  const verdicts = Array.from({ length: 3_000 }, () => check.admit(socket, fileSystemId));
  const refusedAtOnce = await Promise.race([verdicts.at(-1), Promise.resolve('waits')]);
  fail(Object.assign(new Error('EACCES'), { code: 'EACCES' }));
  await verdicts[0];
  fail(Object.assign(new Error('EACCES'), { code: 'EACCES' }));

  expect(refusedAtOnce).toBe(false);
  expect((await Promise.all(verdicts)).every((admitted) => !admitted)).toBe(true);
  expect(lines).toEqual([['connection.refused', '1024 connections wait to be looked at']]);
});

async function openTunnel(): Promise<number> {
  const program = stage.start('dist/efs-agent.mjs', [
    'tunnel',
    fileSystemId,
    '-o',
    'tls,mounttargetip=127.0.0.1',
  ]);
  await waitFor(() => program.stdout().includes('\n'), 'the tunnel to be ready', program);
  return Number(program.stdout().trim().split(':')[1]);
}

/** What a program of a user gets from the tunnel, which answers with what it is sent. */
async function askAs(
  uid: number,
  host: string,
  port: number,
  how: 'stays' | 'half-closes' | 'leaves',
): Promise<string> {
  const script = `
    const socket = require('node:net').connect({ port: ${port}, host: '${host}', allowHalfOpen: true });
    const leaves = ${how === 'leaves'};
    const done = (said) => { console.log(leaves ? 'left' : said); process.exit(); };
    socket.on('connect', () => {
      socket[${how === 'half-closes'} ? 'end' : 'write']('hello');
      if (leaves) done();
    });
    socket.on('data', (chunk) => done(String(chunk)));
    socket.on('error', (error) => done(error.code === 'ECONNRESET' ? 'reset' : error.code));
    socket.on('end', () => done('end'));`;
  const child = spawn(process.execPath, ['-e', script], {
    uid,
    gid: uid,
    cwd: '/',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let said = '';
  child.stdout.on('data', (chunk) => (said += chunk));
  await once(child, 'close');
  return said.trim();
}
