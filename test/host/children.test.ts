import { createHook } from 'node:async_hooks';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, onTestFinished, test } from 'vitest';
import type { Child } from '../../src/core/ports.ts';
import { startChild } from '../../src/host/children.ts';

const folder = mkdtempSync(join(tmpdir(), 'efs-agent-children-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Answers 'facts' with what it sees of its surroundings, 'echo' with the message, and writes to a connection it is given. */
const program = join(folder, 'child.cjs');
writeFileSync(
  program,
  `process.on('message', (message, handle) => {
    if (handle) new (require('node:net').Socket)({ handle }).end('from the child');
    else if (message === 'facts') process.send({ env: Object.keys(process.env).sort(), cwd: process.cwd(), execArgv: process.execArgv });
    else if (message === 'leave') process.exit(3);
    else process.send(message);
  });`,
);

interface Started {
  child: Child<unknown, unknown>;
  received: unknown[];
  ends: string[];
}

function start(path = program, environment: NodeJS.ProcessEnv = {}): Started {
  const child = startChild<unknown, unknown>(path, { nodeOptions: ['--max-old-space-size=64'], environment });
  const started: Started = { child, received: [], ends: [] };
  child.onMessage((message) => started.received.push(message));
  child.onExit((how) => started.ends.push(how));
  onTestFinished(() => child.kill('SIGKILL'));
  return started;
}

const deadline = { timeout: 10_000 };

test('a child sees only the environment it is given, and stands in the root directory', async () => {
  const { child, received } = start(program, { EFS_TEST: '1' });

  child.send('facts');

  await expect.poll(() => received, deadline).toHaveLength(1);
  const { env, cwd, execArgv } = received[0] as { env: string[]; cwd: string; execArgv: string[] };
  expect(env.filter((name) => !name.startsWith('NODE_CHANNEL_'))).toEqual(['EFS_TEST']);
  expect(cwd).toBe('/');
  expect(execArgv).toEqual(['--max-old-space-size=64']);
});

test('messages keep their bytes, in both directions', async () => {
  const { child, received } = start();
  const message = { kind: 'x', bytes: new Uint8Array([0, 255, 10]), none: null, at: 2 ** 53 };

  child.send(message);

  await expect.poll(() => received, deadline).toHaveLength(1);
  expect(received[0]).toMatchObject({ kind: 'x', none: null, at: 2 ** 53 });
  expect([...(received[0] as typeof message).bytes]).toEqual([0, 255, 10]);
});

test('an accepted socket that travels with a message reaches the child as a bare handle, and is served by it', async () => {
  const { child } = start();
  const server = createServer({ pauseOnConnect: true }, (socket) => child.send({ kind: 'session' }, socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());

  const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
  const [bytes] = await once(client, 'data');

  expect(String(bytes)).toBe('from the child');
});

test('the end of a child is told once, with its status or signal', async () => {
  const leaving = start();
  const killed = start();

  leaving.child.send('leave');
  killed.child.kill('SIGKILL');

  await expect.poll(() => leaving.ends, deadline).toEqual(['exit status 3']);
  await expect.poll(() => killed.ends, deadline).toEqual(['signal SIGKILL']);
});

test('a program that is not there ends like any other', async () => {
  const { ends } = start(join(folder, 'missing.cjs'));

  await expect.poll(() => ends, deadline).toEqual(['exit status 1']);
});

test('a message to a child that has ended is lost, and its socket stays with the caller', async () => {
  const { child, ends } = start();
  child.kill('SIGKILL');
  await expect.poll(() => ends, deadline).toHaveLength(1);
  const server = createServer({ pauseOnConnect: true }, (socket) => {
    child.send({ kind: 'session' }, socket);
    socket.end('still here');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  onTestFinished(() => void server.close());

  const client = connect((server.address() as AddressInfo).port, '127.0.0.1');
  const [bytes] = await once(client, 'data');

  expect(String(bytes)).toBe('still here');
});

test('however often a watched child was replaced, the memory is looked at once in a round of the event loop', async () => {
  const distrust = { parse: (value: unknown) => value, messagesPerSecond: 1_000, memoryBytes: 2 ** 26 };
  let current: Child<unknown, unknown>;
  let replaced = 0;
  const replace = (): void => {
    current = startChild<unknown, unknown>(program, { environment: {}, distrust });
    current.onExit(() => {
      replaced += 1;
      if (replaced <= 5) replace();
    });
  };
  replace();
  onTestFinished(() => current.kill('SIGKILL'));
  for (let count = 1; count <= 5; count += 1) {
    current!.kill('SIGKILL');
    await expect.poll(() => replaced, deadline).toBe(count);
  }
  let immediates = 0;
  const counting = createHook({
    init(_id, type) {
      if (type === 'Immediate') immediates += 1;
    },
  }).enable();
  onTestFinished(() => void counting.disable());

  const rounds = 10;
  for (let round = 0; round < rounds; round += 1) await new Promise((resolve) => setImmediate(resolve));

  // One of ours in each, and one of the child's.
  expect(Math.abs(immediates - 2 * rounds)).toBeLessThanOrEqual(1);
});
