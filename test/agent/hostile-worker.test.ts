import { cpSync, writeFileSync } from 'node:fs';
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
const mostRssBytes = 600 * 2 ** 20;

let stage: AgentStage;
beforeEach(() => {
  stage = openAgentStage([23950, 23969]);
});
afterEach(() => stage.close());

/** An agent whose workers run this program, with one tunnel that it was asked for. */
async function startWith(attack: string): Promise<Running> {
  await stage.startTarget();
  const programs = join(stage.directory, 'programs');
  cpSync('dist', programs, { recursive: true });
  writeFileSync(join(programs, 'worker.cjs'), `${prelude}function attack(start) { ${attack} }`);
  const agent = stage.start(join(programs, 'agent.cjs'), []);
  await waitFor(() => agent.stderr().includes('agent.ready'), 'the agent to be ready', agent);
  stage.start('dist/efs-agent.mjs', ['tunnel', fileSystemId, '-o', 'tls,mounttargetip=127.0.0.1']);
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
