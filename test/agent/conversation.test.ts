import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Answers, holdConversations, sendMessage } from '../../src/agent/conversation.ts';
import { FakeClock } from '../support/fake-clock.ts';
import { createTemporaryDirectory } from '../support/temporary-directory.ts';

const limits = { mostOpen: 3, patienceMs: 1_000 };
const request = '{"kind":"status","version":1}\n';

let directory: string;
let server: Server;
let clock: FakeClock;
let clients: Socket[];
/** Requests that have come, in all conversations, and those that were ended. */
let asked: number;
let ended: number;
/** Whether the clients have something open. */
let isOpen: boolean;
/** Answers that are held back until they are let go. */
let held: (() => void)[] | null;
beforeEach(async () => {
  directory = createTemporaryDirectory();
  server = createServer();
  clock = new FakeClock(0);
  clients = [];
  asked = 0;
  ended = 0;
  isOpen = false;
  held = null;
  holdConversations(
    server,
    limits,
    { clock, log: () => {} },
    (_socket, send): Answers => ({
      async answer() {
        asked += 1;
        if (held !== null) await new Promise<void>((letGo) => held!.push(letGo));
        sendMessage(send, { kind: 'closed', found: true });
      },
      mayBeSilent: () => isOpen,
      async end() {
        ended += 1;
      },
    }),
  );
  server.listen(join(directory, 'socket'));
  await once(server, 'listening');
});
afterEach(() => {
  for (const client of clients) client.destroy();
  server.close();
  rmSync(directory, { recursive: true });
});

async function open(): Promise<Socket> {
  const client = connect(join(directory, 'socket'));
  client.on('error', () => {});
  clients.push(client);
  await once(client, 'connect');
  return client;
}

const answer = '{"kind":"closed","found":true}\n';
const isGone = (client: Socket) => expect.poll(() => client.closed).toBe(true);
const connections = () =>
  new Promise<number>((resolve) => server.getConnections((_error, count) => resolve(count)));

/** Time passes until a client is sent away; says how long it was let. */
async function passUntilGone(client: Socket, each: () => void = () => {}): Promise<number> {
  client.resume();
  for (let passedMs = 0; passedMs < 10 * limits.patienceMs; passedMs += 100) {
    if (client.closed) return passedMs;
    each();
    await clock.pass(100);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  return Number.POSITIVE_INFINITY;
}

test('a client that says nothing is sent away when the patience is over', async () => {
  const client = await open();
  await expect.poll(connections).toBe(1);

  expect(await passUntilGone(client)).toBeGreaterThanOrEqual(limits.patienceMs);
  expect(client.closed).toBe(true);
  await expect.poll(() => ended).toBe(1);
});

test('a client whose request comes a byte at a time, for ever, is sent away all the same', async () => {
  const client = await open();

  const letMs = await passUntilGone(client, () => client.write('x'));

  expect(letMs).toBeLessThanOrEqual(2 * limits.patienceMs);
  expect(asked).toBe(0);
});

test('a client that was answered and says no more is sent away, unless something is open for it', async () => {
  const silent = await open();
  silent.write(request);
  expect(String((await once(silent, 'data'))[0])).toBe(answer);
  const silentMs = await passUntilGone(silent);
  isOpen = true;
  const owner = await open();
  owner.write(request);
  expect(String((await once(owner, 'data'))[0])).toBe(answer);

  expect(silentMs).toBeLessThan(Number.POSITIVE_INFINITY);
  expect(await passUntilGone(owner)).toBe(Number.POSITIVE_INFINITY);
});

test('whoever has something open must end the request that it begins', async () => {
  isOpen = true;
  const owner = await open();
  owner.write(`${request}{"kind"`);
  expect(String((await once(owner, 'data'))[0])).toBe(answer);

  expect(await passUntilGone(owner)).toBeLessThan(Number.POSITIVE_INFINITY);
});

test('a client is not sent away while the agent is at work for it, however long that takes', async () => {
  held = [];
  const client = await open();
  client.write(request);
  await expect.poll(() => held!.length).toBe(1);

  await clock.pass(100 * limits.patienceMs);
  held[0]!();

  expect(String((await once(client, 'data'))[0])).toBe(answer);
});

test('of a client that asks and asks no more is read than a few requests, and all are answered in the end', async () => {
  held = [];
  const count = 100_000;
  const client = await open();
  client.write(request.repeat(count));
  await expect.poll(() => held!.length).toBe(1);

  // What the kernel and one read hold has left the client; the rest waits there.
  const [socket] = await Promise.all([serverReads(), clock.pass(0)]);
  const readAtFirst = socket;
  for (const letGo of held.splice(0)) letGo();
  held = null;
  let answered = 0;
  client.on('data', (chunk) => {
    answered += chunk.toString('latin1').split('\n').length - 1;
  });

  expect(readAtFirst).toBeLessThan(count * request.length * 0.5);
  await expect.poll(() => answered).toBe(count);
});

/** Bytes the client could get rid of, when it gets rid of no more. */
async function serverReads(): Promise<number> {
  const client = clients[0]!;
  let before = -1;
  while (before !== client.bytesWritten - client.writableLength) {
    before = client.bytesWritten - client.writableLength;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return before;
}

test('a client that takes no answers is sent away', async () => {
  const client = await open();
  client.pause();
  for (let wrote = 0; wrote < 200; wrote += 1) client.write(request.repeat(500));
  await expect.poll(() => asked).toBeGreaterThan(1_000);

  const remaining = async () => {
    await clock.pass(limits.patienceMs);
    return connections();
  };

  await expect.poll(remaining).toBe(0);
  expect(asked).toBeLessThan(100_000);
});

test('one client too many is told so and ends; the others go on, and a place that is left is free again', async () => {
  const others = [await open(), await open(), await open()];
  await expect.poll(connections).toBe(3);

  const told = await text(await open());
  others[0]!.destroy();
  await expect.poll(connections).toBe(2);
  others[1]!.write(request);
  const next = await open();
  next.write(request);

  expect(JSON.parse(told)).toMatchObject({ kind: 'failed', error: { code: 'agent.unreachable' } });
  expect(String((await once(others[1]!, 'data'))[0])).toBe(answer);
  expect(String((await once(next, 'data'))[0])).toBe(answer);
});

test.each([
  ['what is no message', 'GET / HTTP/1.1\r\n'],
  ['a message of another version', '{"kind":"status","version":7}\n'],
  ['a line that is too long', 'x'.repeat(300_000)],
  ['a list a hundred thousand levels deep', `${'['.repeat(100_000)}\n`],
  ['bytes that are no text', `{"kind":"\u0000\ud800"}\n`],
])('%s is answered, after what came before it, and ends the conversation', async (_what, bytes) => {
  const client = await open();

  client.write(`${request}${bytes}${request}`);
  const lines = (await text(client)).trim().split('\n');

  expect(lines.map((line) => (JSON.parse(line) as { kind: string }).kind)).toEqual(['closed', 'failed']);
  await isGone(client);
  expect(asked).toBe(1);
});
