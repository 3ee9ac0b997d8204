import { createPublicKey, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, cpSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  type AgentStage,
  fileSystemId,
  openAgentStage,
  type Running,
  waitFor,
} from '../support/agent-stage.ts';
import { highestRssBytes } from '../support/processes.ts';

/** A worker that was broken into: a program in its place, with its user and its channel to the agent. */
const prelude = `
const fs = require('node:fs');
const net = require('node:net');
const write = (bytes) => { for (let at = 0; at < bytes.length;) { try { at += fs.writeSync(3, bytes, at); } catch (e) { if (e.code !== 'EAGAIN') process.exit(); } } };
const say = (event, fields) => process.send({ kind: 'log', level: 'warn', event, fields });
process.on('message', (message) => {
  if (message.kind !== 'start') return;
  if (message.dropTo !== null) { process.setgroups([]); process.setgid(message.dropTo.gid); process.setuid(message.dropTo.uid); }
  process.send({ kind: 'ready', pid: process.pid }, () => attack(message));
});
`;
const mostRssBytes = 200 * 2 ** 20;

/** Somebody outside, to whom a hostile worker sends what it gets hold of, and who tells it what to try next. */
interface Accomplice {
  port: number;
  /** What it was sent so far. */
  told: Record<string, unknown>[];
  order(what: object): void;
  close(): void;
}

/** The hostile worker's end of it: `tell`, and `obey` for each order. */
const callAccomplice = (port: number) => `
const accomplice = net.connect(${port}, '127.0.0.1').on('error', () => {}).on('close', () => process.exit());
const tell = (what) => accomplice.write(JSON.stringify(what) + '\\n');
const obey = (act) => { let text = ''; accomplice.on('data', (chunk) => { text += chunk; for (let end; (end = text.indexOf('\\n')) >= 0; text = text.slice(end + 1)) act(JSON.parse(text.slice(0, end))); }); };
`;

let stage: AgentStage;
let accomplice: Accomplice;
beforeEach(async () => {
  stage = openAgentStage([23950, 23969]);
  accomplice = await openAccomplice();
});
afterEach(async () => {
  accomplice.close();
  await stage.close();
});

async function openAccomplice(): Promise<Accomplice> {
  const told: Record<string, unknown>[] = [];
  const callers = new Set<Socket>();
  const server = createServer((socket) => {
    callers.add(socket);
    let text = '';
    socket.on('error', () => {});
    socket.on('data', (chunk) => {
      const lines = `${text}${chunk}`.split('\n');
      text = lines.pop()!;
      told.push(...lines.map((line) => JSON.parse(line) as Record<string, unknown>));
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    told,
    order(what) {
      for (const socket of callers) socket.write(`${JSON.stringify(what)}\n`);
    },
    close() {
      for (const socket of callers) socket.destroy();
      server.close();
    },
  };
}

/** An agent whose workers run this program, with one tunnel that it was asked for. */
async function startWith(attack: string, options = 'tls'): Promise<Running> {
  await stage.startTarget();
  // As /run: what keeps a worker out of a socket is the socket's own mode.
  chmodSync(stage.directory, 0o711);
  const programs = join(stage.directory, 'programs');
  cpSync('dist', programs, { recursive: true });
  writeFileSync(join(programs, 'worker.cjs'), `${prelude}function attack(start) { ${attack} }`);
  const agent = stage.start(join(programs, 'agent.cjs'), []);
  await waitFor(() => agent.stderr().includes('agent.ready'), 'the agent to be ready', agent);
  stage.start('dist/efs-agent.mjs', ['tunnel', fileSystemId, '-o', `${options},mounttargetip=127.0.0.1`]);
  return agent;
}

const attacks: [what: string, attack: string, why: string][] = [
  [
    'floods the agent with messages',
    `const { Serializer } = require('node:v8');
     const serializer = new Serializer();
     serializer.writeHeader();
     serializer.writeValue({ kind: 'pong', sequence: 1, tunnels: [], bufferedBytes: 0 });
     const body = serializer.releaseBuffer();
     const length = Buffer.alloc(4);
     length.writeUInt32BE(body.length);
     const message = Buffer.concat([length, body]);
     for (;;) write(message);`,
    'messages a second',
  ],
  [
    'begins a message of two gigabytes',
    `write(Buffer.from([0x7f, 0xff, 0xff, 0xff])); for (;;) write(Buffer.alloc(1 << 20));`,
    'a message without an end',
  ],
  [
    'sends bytes that are no message',
    `write(Buffer.concat([Buffer.from([0, 0, 0, 8]), Buffer.from('deadbeef')]));`,
    'what is no message',
  ],
  ['sends messages of the wrong shape', `process.send(null); process.send({ kind: 7 });`, 'malformed'],
  [
    'sends a list where a text belongs',
    `process.send({ kind: 'session.connected', tunnelId: ['x'], sessionId: 1, upstream: {} });`,
    'malformed',
  ],
  ['names a log line as it likes', `say('agent.ready\\nagent.stopped', {});`, 'malformed'],
  [
    'hands sockets to the agent',
    `net.createServer(function () {}).listen(0, '127.0.0.1', function () { for (let i = 0; i < 50; i += 1) process.send({ kind: 'ready', pid: 1 }, this); });`,
    'it sent a socket',
  ],
  [
    'invents messages of Node itself',
    `process.send({ cmd: 'NODE_HANDLE', type: 'no.such.type' }); process.send({ cmd: 'NODE_HANDLE_ACK' }); setTimeout(() => process.send(null), 500);`,
    'ended by us',
  ],
];

test.each(attacks)(
  'a worker that %s is ended, and the agent goes on',
  { timeout: 60_000 },
  async (_what, attack, why) => {
    const agent = await startWith(attack);

    await waitFor(
      () => agent.stderr().includes('worker.lost') && agent.stderr().includes(why),
      `the worker to be ended: ${why}`,
      agent,
    );
    const status = await stage.status();

    expect(status.pid).toBe(agent.child.pid);
    expect(status.worker.restarts).toBeGreaterThan(0);
    expect(highestRssBytes(agent.child.pid!)).toBeLessThan(mostRssBytes);
    expect(agent.child.exitCode).toBeNull();
  },
);

test('ids that no tunnel and no session has, and kinds that nobody knows, change nothing', async () => {
  const agent = await startWith(`
    for (const sessionId of [0, 1, 2 ** 40]) {
      process.send({ kind: 'session.taken', tunnelId: '__proto__', sessionId });
      process.send({ kind: 'session.closed', tunnelId: 'fs-0.tunnel.1', sessionId, cause: 'local-end', bytesUp: 0, bytesDown: 0 });
      process.send({ kind: 'probe.failed', tunnelId: 'x', requestId: 77, error: { code: 'internal', message: 'x', details: {} } });
      process.send({ kind: 'tunnel.closed', tunnelId: 'toString' });
      process.send({ kind: 'pong', sequence: 999, tunnels: [{ tunnelId: '__proto__', bytesUp: 1, bytesDown: 1, sessions: 1, open: [] }], bufferedBytes: 0 });
      process.send({ kind: 'of-the-future' });
    }
    say('log-level.changed', {});
  `);

  await waitFor(() => agent.stderr().includes('log-level.changed'), 'the worker to be through', agent);
  const status = await stage.status();

  expect(status.worker).toMatchObject({ state: 'up', restarts: 0 });
  expect(status.mounts[0]).toMatchObject({ bytesUp: 0, sessions: 0 });
  expect(agent.stderr()).not.toMatch(/ error /);
});

test('a worker opens nothing of the agent: no memory, environment, socket, record or program, and signals nobody', async ({
  skip,
}) => {
  skip(process.getuid?.() !== 0, 'not here: only root can give a worker a user of its own');
  stage.environment['AWS_SECRET_ACCESS_KEY'] = 'planted-secret';
  const agent = await startWith(`
    const parent = process.ppid;
    const outcomes = {};
    const attempt = (name, act) => { try { act(); outcomes[name] = 'done'; } catch (error) { outcomes[name] = error.code; } };
    for (const file of ['mem', 'environ', 'maps', 'fd/0', 'cwd']) attempt(file, () => file === 'cwd' ? fs.readlinkSync('/proc/' + parent + '/cwd') : fs.openSync('/proc/' + parent + '/' + file));
    attempt('write', () => fs.writeFileSync('${join(stage.directory, 'run', 'left')}', 'x'));
    attempt('replace', () => fs.renameSync('${join(stage.directory, 'programs', 'worker.cjs')}', '${join(stage.directory, 'programs', 'agent.cjs')}'));
    attempt('records', () => fs.readdirSync('${join(stage.directory, 'run', 'mounts')}'));
    attempt('passwords', () => fs.openSync('/etc/shadow'));
    attempt('root', () => process.setuid(0));
    attempt('signal', () => process.kill(parent, 'SIGUSR1'));
    net.connect('${join(stage.directory, 'run', 'control.sock')}').on('error', (error) => { outcomes.control = error.code; say('log-level.changed', outcomes); }).on('connect', () => { outcomes.control = 'done'; say('log-level.changed', outcomes); });
  `);

  await waitFor(() => agent.stderr().includes('log-level.changed'), 'the worker to be through', agent);
  const line = agent
    .stderr()
    .split('\n')
    .find((text) => text.includes('log-level.changed'))!;

  expect(line).not.toContain('=done');
  expect(line.match(/=(EACCES|EPERM)\b/g)).toHaveLength(12);
});

test('a program that a worker leaves behind with its channel is hung up on, in the middle of a message without an end', async () => {
  const flood = `
    const fs = require('node:fs'), accomplice = require('node:net').connect(${accomplice.port}, '127.0.0.1');
    const write = (bytes) => { for (;;) try { return fs.writeSync(3, bytes); } catch (e) { if (e.code !== 'EAGAIN') throw e; } };
    try { write(Buffer.from([0x7f, 0xff, 0xff, 0xff])); for (;;) write(Buffer.alloc(1 << 16)); }
    catch (error) { accomplice.end(JSON.stringify({ code: error.code }) + '\\n'); }`;
  const agent = await startWith(`
    require('node:child_process').spawn(process.execPath, ['-e', ${JSON.stringify(flood)}], { stdio: ['ignore', 'ignore', 'ignore', 3], detached: true });
    setTimeout(() => process.exit(0), 100);
  `);

  await waitFor(() => accomplice.told.length > 0, 'the program to be hung up on', agent);
  const status = await stage.status();

  expect(accomplice.told[0]).toEqual({ code: expect.stringMatching(/^(?:EPIPE|ECONNRESET)$/) });
  expect(status.pid).toBe(agent.child.pid);
  expect(highestRssBytes(agent.child.pid!)).toBeLessThan(mostRssBytes);
});

test('the worker after one that sent a message without an end is not blamed for it', async () => {
  await stage.startTarget();
  const programs = join(stage.directory, 'programs');
  cpSync('dist', programs, { recursive: true });
  cpSync('dist/worker.cjs', join(programs, 'honest.cjs'));
  const begun = JSON.stringify(join(stage.directory, 'begun'));
  const hostile = `${prelude}function attack() { write(Buffer.from([0x7f, 0xff, 0xff, 0xff])); for (;;) write(Buffer.alloc(1 << 20)); }`;
  writeFileSync(
    join(programs, 'worker.cjs'),
    `if (require('node:fs').existsSync(${begun})) require('./honest.cjs');
     else { require('node:fs').writeFileSync(${begun}, ''); ${hostile} }`,
  );
  const agent = stage.start(join(programs, 'agent.cjs'), []);
  await waitFor(() => agent.stderr().includes('agent.ready'), 'the agent to be ready', agent);

  const tunnel = stage.start('dist/efs-agent.mjs', [
    'tunnel',
    fileSystemId,
    '-o',
    'tls,mounttargetip=127.0.0.1',
  ]);
  await waitFor(() => tunnel.stdout().includes('127.0.0.1'), 'the tunnel to be open', agent);

  expect(agent.stderr().match(/worker\.lost .*/g)).toEqual([
    expect.stringContaining('a message without an end'),
  ]);
});

const calls: [what: string, line: string, why: string][] = [
  [
    'names ever more tunnels and does not read',
    `JSON.stringify({ kind: 'hello', pid: n, version: '1', tunnels: Array.from({ length: 500 }, (_, at) => ({ tunnelId: 'x' + at + '.' + n, bytesUp: 0, bytesDown: 0, sessions: 1, open: [] })) })`,
    'hello twice',
  ],
  [
    'speaks of sessions before it has said who it is',
    `JSON.stringify({ kind: 'session.closed', tunnelId: 'x' + n, sessionId: n, cause: 'retired', bytesUp: 0, bytesDown: 0 })`,
    'hello first',
  ],
  ['chatters', `JSON.stringify({ kind: 'stirred' })`, 'says too much'],
  ['never ends a line', `'x'.repeat(300_000)`, 'longer than'],
];

test.each(calls)(
  'a worker that calls as one of an earlier agent and %s is hung up on, and the agent goes on',
  async (_what, line, why) => {
    const agent = await startWith(`
      let n = 0, closed = 0;
      const endIfGone = ({ code }) => { if (code === 'ENOENT' || code === 'ECONNREFUSED') process.exit(); };
      const call = () => {
        const socket = net.connect(start.callbackSocket).on('error', endIfGone).on('close', () => { if (++closed === 16) say('log-level.changed', {}); call(); });
        const chatter = () => { while (!socket.destroyed && socket.write(${line} + '\\n')) n += 1; };
        socket.on('connect', chatter).on('drain', chatter);
      };
      for (let i = 0; i < 8; i += 1) call();
    `);

    await waitFor(() => agent.stderr().includes('log-level.changed'), 'the worker to be through', agent);
    const status = await stage.status();

    expect(agent.stderr()).toMatch(new RegExp(`worker\\.misspoke .*${why}`));
    expect(status.pid).toBe(agent.child.pid);
    expect(highestRssBytes(agent.child.pid!)).toBeLessThan(mostRssBytes);
  },
);

test('a worker learns the keys of the mounts that it carries, and not that of another one: not by asking, and not from the memory of the worker that has it', async ({
  skip,
}) => {
  skip(process.getuid?.() !== 0, 'not here: only root can give a worker a user of its own');
  Object.assign(stage.environment, {
    AWS_ACCESS_KEY_ID: 'ASIA0000000000000000',
    AWS_SECRET_ACCESS_KEY: 'secret',
    AWS_SESSION_TOKEN: 'token',
  });
  const first = await startWith(
    `${callAccomplice(accomplice.port)}
    const { spawn, spawnSync } = require('node:child_process');
    process.on('message', (heard) => tell({ heard }));
    const looks = (pid) => {
      const outcomes = {};
      for (const file of ['mem', 'environ', 'maps', 'fd/0', 'auxv'])
        try { fs.closeSync(fs.openSync('/proc/' + pid + '/' + file)); outcomes[file] = 'done'; } catch (error) { outcomes[file] = error.code; }
      const attach = process.arch === 'arm64' ? 117 : 101;
      const calls = { ptrace: 'syscall(' + attach + ', 16, ' + pid + ', 0, 0)', pidfd_getfd: 'syscall(438, syscall(434, ' + pid + ', 0), 0, 0)' };
      for (const [name, call] of Object.entries(calls))
        outcomes[name] = spawnSync('perl', ['-MErrno', '-e', 'my $r = ' + call + '; print $r == -1 ? (grep { $!{$_} } keys %!)[0] : "done"'], { encoding: 'utf8' }).stdout;
      return outcomes;
    };
    obey((order) => {
      if (order.look !== undefined) {
        const own = spawn('sleep', ['60'], { stdio: 'ignore' });
        own.on('spawn', () => { tell({ looked: looks(order.look), own: looks(own.pid) }); own.kill('SIGKILL'); });
        return;
      }
      const state = (tunnelId) => ({ tunnelId, bytesUp: 0, bytesDown: 0, sessions: 1, open: [] });
      const wanted = [
        { kind: 'hello', pid: process.pid, version: '1', tunnels: [order.ask, 'no-such-tunnel'].map(state) },
        { kind: 'ready', pid: process.pid },
        { kind: 'endpoints.wanted', tunnelId: order.ask },
        { kind: 'session.taken', tunnelId: order.ask, sessionId: 1 },
        { kind: 'tunnel.open', tunnelId: order.ask },
        'enough',
      ];
      let answer = '';
      net.connect(start.callbackSocket).on('data', (chunk) => { answer += chunk; }).on('close', () => tell({ answer }))
        .on('error', () => {}).write(wanted.map((line) => JSON.stringify(line) + '\\n').join(''));
    });`,
    'tls,iam',
  );
  await waitFor(
    () => JSON.stringify(accomplice.told).includes('PRIVATE KEY'),
    'the worker to get its key',
    first,
  );
  first.child.kill('SIGKILL');
  await first.ended;

  const presented: string[] = [];
  await stage.startTarget(undefined, (socket) => {
    presented.push(showKey(new X509Certificate(socket.getPeerX509Certificate()!.raw).publicKey.export(spki)));
    socket.pipe(socket);
  });
  const second = await stage.startAgent();
  const mounted = await stage.mountEfs(
    fileSystemId,
    stage.mountPoint,
    '-o',
    'tls,iam,mounttargetip=127.0.0.1',
  );
  const { worker, mounts } = await stage.status();
  accomplice.order({ look: worker.pid });
  accomplice.order({ ask: mounts[0]!.mountId });
  const find = (name: string) => accomplice.told.find((what) => name in what)!;
  await waitFor(() => find('looked') !== undefined && find('answer') !== undefined, 'the attempts', second);

  expect(mounted).toMatchObject({ status: 0, stderr: '' });
  const { looked, own } = find('looked') as { looked: Record<string, string>; own: Record<string, string> };
  expect(own).toEqual(Object.fromEntries(Object.keys(own).map((name) => [name, 'done'])));
  expect(looked).toEqual(
    Object.fromEntries(Object.keys(own).map((name) => [name, expect.stringMatching(/^(?:EACCES|EPERM)$/)])),
  );
  const answers = (find('answer')['answer'] as string).trim().split('\n');
  expect(answers.map((line) => (JSON.parse(line) as { kind: string }).kind)).toEqual([
    'tunnel.close',
    'retire',
  ]);
  const got = JSON.stringify(accomplice.told).match(
    /-----BEGIN PRIVATE KEY-----.+?-----END PRIVATE KEY-----/g,
  )!;
  expect(presented.length).toBeGreaterThan(0);
  expect(got.map((pem) => showKey(createPublicKey(JSON.parse(`"${pem}"`)).export(spki)))).not.toContain(
    presented[0],
  );
});

const spki = { type: 'spki', format: 'der' } as const;
const showKey = (der: Buffer) => der.toString('base64');
