import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { joinStreams } from '../../src/target/join.ts';

const undo: (() => unknown)[] = [];
afterEach(() => {
  for (const step of undo.splice(0)) step();
});

/** Two ends of one TCP connection. */
async function socketPair(): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const near = connect({
    host: '127.0.0.1',
    port: (server.address() as AddressInfo).port,
    allowHalfOpen: true,
  });
  const [far] = (await once(server, 'connection')) as [Socket];
  server.close();
  near.on('error', () => {});
  undo.push(
    () => near.destroy(),
    () => far.destroy(),
  );
  return [near, far];
}

async function joined() {
  const [client, clientSide] = await socketPair();
  const [backend, backendSide] = await socketPair();
  const counters = { bytesReceived: 0, bytesSent: 0 };
  const done = joinStreams(clientSide, backendSide, counters);
  return { client, backend, counters, done };
}

/** Everything up to the end of the other's direction; leaves our own open. */
async function read(socket: Socket): Promise<string> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => void chunks.push(chunk));
  await once(socket, 'end');
  return Buffer.concat(chunks).toString();
}

test('the end of one direction passes on, and the other direction goes on', async () => {
  const { client, backend, counters, done } = await joined();

  client.end('question');
  expect(await read(backend)).toBe('question');
  backend.end('answer');
  expect(await read(client)).toBe('answer');

  await done;
  expect(counters).toEqual({ bytesReceived: 8, bytesSent: 6 });
});

test.each(['client', 'backend'] as const)('a reset of the %s ends the other side', async (side) => {
  const { done, ...pair } = await joined();
  const other = pair[side === 'client' ? 'backend' : 'client'];
  other.resume();
  pair.client.write('x');
  await expect.poll(() => pair.counters.bytesReceived).toBe(1);

  pair[side].resetAndDestroy();

  await Promise.all([done, once(other, 'end')]);
});

test('a backend that does not read stops the client, and loses nothing', async () => {
  const { client, backend, counters } = await joined();
  const total = 64 * 1024 * 1024;
  backend.pause();
  client.end(Buffer.alloc(total, 7));
  let seen = -1;
  await expect
    .poll(
      () => {
        const isStill = seen === counters.bytesReceived;
        seen = counters.bytesReceived;
        return isStill && seen > 0;
      },
      { interval: 100 },
    )
    .toBe(true);
  expect(seen).toBeLessThan(total);

  let received = 0;
  for await (const chunk of backend) received += (chunk as Buffer).length;

  expect(received).toBe(total);
});
