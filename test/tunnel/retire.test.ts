import { once } from 'node:events';
import { expect, test } from 'vitest';
import { call, reply } from '../support/rpc.ts';
import { ask, createRpcPeer, type RpcPeer, readReply } from './rpc-peer.ts';
import { connectTo, endOf, type Peer, read, startPeer, useTunnelStage, type Worker } from './stage.ts';

const stage = useTunnelStage();

interface Scene {
  worker: Worker;
  rpc: RpcPeer;
  peer: Peer;
  port: number;
  exited: Promise<unknown[]>;
}

async function start(): Promise<Scene> {
  const rpc = createRpcPeer();
  const peer = await startPeer(stage.certificate, { serve: rpc.serve });
  const worker = await stage.startTunnel();
  stage.atEnd(peer.close);
  const port = await worker.listen('t', [peer.endpoint]);
  return { worker, rpc, peer, port, exited: once(worker.child, 'exit') };
}

test('a worker without sessions retires at once', async () => {
  const { worker, exited } = await start();

  worker.tell({ kind: 'retire', deadlineMs: 60_000 });

  expect(await worker.hears('retired')).toMatchObject({ pid: worker.child.pid });
  expect(await exited).toEqual([0, null]);
});

test('an idle session ends in an orderly way when the worker retires', async () => {
  const { worker, port, exited } = await start();
  const client = await connectTo(port);
  await ask(client, 1);

  worker.tell({ kind: 'retire', deadlineMs: 60_000 });

  expect(await endOf(client)).toBe('end');
  client.end();
  expect(await worker.hears('session.closed')).toMatchObject({ cause: 'retired' });
  await worker.hears('retired');
  expect(await exited).toEqual([0, null]);
});

test('a session with requests under way ends only when the last of them has its answer', async () => {
  const { worker, rpc, port, exited } = await start();
  const client = await connectTo(port);
  await ask(client, 1);
  rpc.hold(true);
  client.write(call(2));
  client.write(call(3));
  await rpc.received(3);

  worker.tell({ kind: 'retire', deadlineMs: 60_000 });
  await worker.totals();
  expect(client.readableEnded).toBe(false);
  rpc.hold(false);

  await readReply(client, 2);
  await readReply(client, 3);
  expect(await endOf(client)).toBe('end');
  client.end();
  expect(await exited).toEqual([0, null]);
});

test('half a request and half an answer are waited for', async () => {
  const { worker, rpc, peer, port, exited } = await start();
  const client = await connectTo(port);
  await ask(client, 1);
  const half = call(2, 100);
  client.write(half.subarray(0, 50));
  await expect.poll(async () => (await worker.totals()).tunnels[0]?.bytesUp).toBe(44 + 50);
  worker.tell({ kind: 'retire', deadlineMs: 60_000 });
  await worker.totals();
  rpc.hold(true);
  client.write(half.subarray(50));
  await rpc.received(2);
  const answer = reply(2, 100);
  peer.connections[0]!.write(answer.subarray(0, 30));
  await read(client, 30);
  await worker.totals();
  expect(client.readableEnded).toBe(false);

  peer.connections[0]!.write(answer.subarray(30));

  await read(client, answer.length - 30);
  expect(await endOf(client)).toBe('end');
  client.end();
  expect(await exited).toEqual([0, null]);
});

test('a callback that the NFS client has not answered is waited for', async () => {
  const { worker, rpc, peer, port, exited } = await start();
  const client = await connectTo(port);
  await ask(client, 1);
  const callback = call(77);
  peer.connections[0]!.write(callback);
  await read(client, callback.length);
  worker.tell({ kind: 'retire', deadlineMs: 60_000 });
  await worker.totals();
  expect(client.readableEnded).toBe(false);

  client.write(reply(77));

  expect(await endOf(client)).toBe('end');
  client.end();
  await rpc.received(2);
  expect(await exited).toEqual([0, null]);
});

test('what the NFS client sends while the worker leaves reaches nobody, so that it can be sent again', async () => {
  const { worker, rpc, port } = await start();
  const client = await connectTo(port);
  await ask(client, 1);
  worker.tell({ kind: 'retire', deadlineMs: 60_000 });
  await endOf(client);

  client.end(call(2));

  await worker.hears('retired');
  expect(rpc.got.map(({ xid }) => xid)).toEqual([1]);
});

test('at the deadline a busy session is reset, and the worker leaves', async () => {
  const { worker, rpc, port, exited } = await start();
  const client = await connectTo(port);
  rpc.hold(true);
  client.write(call(1));
  await rpc.received(1);
  const ended = endOf(client);

  worker.tell({ kind: 'retire', deadlineMs: 300 });

  expect(await ended).toBe('reset');
  expect(await worker.hears('session.closed')).toMatchObject({ cause: 'retired' });
  expect(await exited).toEqual([0, null]);
});

test('a session without a connection to its mount target ends at once when the worker retires', async () => {
  const { worker, peer, port, exited } = await start();
  await peer.close();
  const client = await connectTo(port);
  client.write(call(1));
  await worker.hears('endpoints.wanted');

  worker.tell({ kind: 'retire', deadlineMs: 60_000 });

  await endOf(client);
  expect(await exited).toEqual([0, null]);
});

test('a worker that retires takes no new session', async () => {
  const { worker, rpc, port } = await start();
  const busy = await connectTo(port);
  rpc.hold(true);
  busy.write(call(1));
  await rpc.received(1);
  worker.tell({ kind: 'retire', deadlineMs: 60_000 });

  const late = await connectTo(port);

  expect(await endOf(late)).toBe('reset');
  expect(await worker.hears('session.closed')).toMatchObject({ sessionId: 2, cause: 'retired' });
  rpc.hold(false);
  await readReply(busy, 1);
});
