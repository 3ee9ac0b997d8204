import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { SendQueues } from '../../src/tunnel/send-queues.ts';

let undo: (() => void)[] = [];
afterEach(() => {
  for (const step of undo) step();
  undo = [];
});

test.each(['127.0.0.1', '::1'])(
  'what a peer on %s does not read is seen, and becomes less when it reads',
  async (host) => {
    const { socket, peer } = await connectPair(host);
    let tick = 0;
    const queues = new SendQueues(() => tick);
    const read = () => {
      tick += 1;
      return queues.unacknowledgedBytes(socket)!;
    };

    expect(read()).toBe(0);
    socket.write(Buffer.alloc(32 * 1024 * 1024));
    await expect.poll(read).toBeGreaterThan(0);
    const before = read();
    peer.resume();

    await expect.poll(read).toBeLessThan(before);
  },
);

test('a connection that is over has nothing to tell', async () => {
  const { socket } = await connectPair('127.0.0.1');
  socket.destroy();
  await once(socket, 'close');

  expect(new SendQueues(() => 1).unacknowledgedBytes(socket)).toBeNull();
});

async function connectPair(host: string): Promise<{ socket: Socket; peer: Socket }> {
  const server = createServer({ pauseOnConnect: true });
  server.listen(0, host);
  await once(server, 'listening');
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const socket = connect({ port: (server.address() as { port: number }).port, host });
  const [[peer]] = await Promise.all([accepted, once(socket, 'connect')]);
  peer.on('error', () => {});
  undo.push(
    () => socket.destroy(),
    () => peer.destroy(),
    () => server.close(),
  );
  return { socket, peer };
}
