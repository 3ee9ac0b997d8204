import { expect, test } from 'vitest';
import { type FaultWire, openFaultWire } from '../support/fault-wire.ts';
import { call, reply } from '../support/rpc.ts';
import { ask, createRpcPeer, type RpcPeer, readReply } from './rpc-peer.ts';
import {
  connectTo,
  deadlineMs,
  endOf,
  type Peer,
  read,
  startPeer,
  useTunnelStage,
  type Worker,
} from './stage.ts';

const stage = useTunnelStage();

interface Scene {
  worker: Worker;
  rpc: RpcPeer;
  peer: Peer;
  /** Two ways to the same mount target, as two addresses of one name. */
  wires: [FaultWire, FaultWire];
  port: number;
}

async function start(stallTimeoutMs = 1_000): Promise<Scene> {
  const rpc = createRpcPeer();
  const peer = await startPeer(stage.certificate, { serve: rpc.serve });
  const wires: [FaultWire, FaultWire] = [await openFaultWire(peer.port), await openFaultWire(peer.port)];
  const worker = await stage.startTunnel({ stallTimeoutMs });
  stage.atEnd(peer.close, wires[0].close, wires[1].close);
  const port = await worker.listen(
    't',
    wires.map((wire) => ({ address: '127.0.0.1', port: wire.port })),
  );
  return { worker, rpc, peer, wires, port };
}

test('a mount target that goes silent during a request costs the session, and the next one uses another address', async () => {
  const { worker, wires, port } = await start();
  const client = await connectTo(port);
  await ask(client, 1);
  wires[0].silence();
  const ended = endOf(client);

  client.write(call(2));

  expect(await ended).toBe('reset');
  expect(await worker.hears('session.closed')).toMatchObject({ cause: 'stalled' });
  expect((await worker.logs('session.stalled')).fields).toMatchObject({ tunnel: 't', inFlight: 1 });
  const next = await connectTo(port);
  await ask(next, 2);
  expect(wires.map((wire) => wire.accepted())).toEqual([1, 1]);
});

test('a connection on which nothing is asked may be silent for ever', async () => {
  const { worker, wires, port } = await start();
  const client = await connectTo(port);
  await ask(client, 1);

  wires[0].silence();
  await ticks(worker, 4_000);
  wires[0].resume();

  await ask(client, 2);
  expect(wires[0].accepted()).toBe(1);
});

test('a mount target that reads slowly is no stall, although the kernel takes nothing for it for longer than the limit', async () => {
  const peer = await startPeer(stage.certificate, {
    serve(socket) {
      socket.pause();
      const reading = setInterval(() => socket.read(30_000), 200);
      socket.on('close', () => clearInterval(reading));
    },
  });
  // At this rate our kernel takes nothing for nine seconds, and that of the mount target acknowledges every second to fourth one.
  const worker = await stage.startTunnel({ stallTimeoutMs: 6_000 });
  stage.atEnd(peer.close);
  const client = await connectTo(await worker.listen('t', [peer.endpoint]));
  for (let xid = 1; xid <= 16; xid += 1) client.write(call(xid, 1024 * 1024));

  await ticks(worker, 10_000);

  expect(worker.said).not.toContainEqual(expect.objectContaining({ kind: 'session.closed' }));
  client.destroy();
}, 60_000);

test('a slow answer is no stall while its bytes come', async () => {
  const { worker, rpc, peer, port } = await start();
  const client = await connectTo(port);
  rpc.hold(true);
  client.write(call(1));
  await rpc.received(1);
  const answer = reply(1, 44);
  const drip = setInterval(() => {
    const socket = peer.connections[0]!;
    socket.write(answer.subarray(sentBytes, sentBytes + 4));
    sentBytes += 4;
    if (sentBytes >= answer.length) clearInterval(drip);
  }, 300);
  let sentBytes = 0;
  stage.atEnd(async () => clearInterval(drip));

  expect(await read(client, answer.length)).toEqual(answer);
  expect((await worker.totals()).tunnels[0]).toMatchObject({ sessions: 1 });
});

test('a mount target that takes no more bytes costs the session', async () => {
  const { worker, rpc, wires, port } = await start();
  const client = await connectTo(port);
  await ask(client, 1);
  rpc.hold(true);
  const ended = endOf(client);

  wires[0].stopReading('dialler');
  for (let xid = 2; xid < 40; xid++) client.write(call(xid, 1024 * 1024));

  expect(await ended).toBe('reset');
  expect(await worker.hears('session.closed')).toMatchObject({ cause: 'stalled' });
});

test('an NFS client that does not read its answers is not taken for a silent mount target', async () => {
  const { worker, peer, port } = await start();
  const client = await connectTo(port);
  client.pause();
  const upstream = await peer.connection(0);
  for (let count = 0; count < 40; count++) upstream.write(reply(100 + count, 1024 * 1024));
  await expect
    .poll(async () => (await worker.totals()).bufferedBytes, { timeout: deadlineMs })
    .toBeGreaterThan(1024 * 1024);

  client.write(call(1));
  await ticks(worker, 3_500);

  expect(worker.said.filter(({ kind }) => kind === 'session.closed')).toEqual([]);
});

test('a worker rests while nothing is asked, says when that ends, and then notices silence as before', async () => {
  const { worker, wires, port } = await start();
  const client = await connectTo(port);
  await ask(client, 1);
  await expect
    .poll(async () => (await worker.totals()).isResting, { timeout: deadlineMs, interval: 200 })
    .toBe(true);
  const saidBefore = worker.said.length;
  wires[0].silence();

  client.write(call(2));

  expect(await worker.hears('session.closed')).toMatchObject({ cause: 'stalled' });
  expect(worker.said.slice(saidBefore).map(({ kind }) => kind)).toContain('stirred');
  const pongs = worker.said.filter((message) => message.kind === 'pong');
  expect(pongs.filter(({ isResting }) => isResting).every(({ tunnels }) => tunnels.length === 0)).toBe(true);
});

test('a session that ends while the worker rests is not counted in the next pong', async () => {
  const { worker, port } = await start();
  const client = await connectTo(port);
  await ask(client, 1);
  await expect
    .poll(async () => (await worker.totals()).isResting, { timeout: deadlineMs, interval: 200 })
    .toBe(true);

  client.destroy();
  await worker.hears('session.closed');

  expect((await worker.totals()).tunnels[0]).toMatchObject({ sessions: 0 });
});

test('a worker that was stopped for longer than the limit blames nobody', async () => {
  const { worker, rpc, port } = await start(2_000);
  const client = await connectTo(port);
  rpc.hold(true);
  client.write(call(1));
  await rpc.received(1);

  worker.child.kill('SIGSTOP');
  await new Promise((resolve) => setTimeout(resolve, 4_500));
  rpc.hold(false);
  worker.child.kill('SIGCONT');

  await readReply(client, 1);
  expect((await worker.totals()).tunnels[0]).toMatchObject({ sessions: 1 });
});

test('a mount target that is slow for longer than the limit is given more time at each further try', async () => {
  const { worker, rpc, port } = await start();
  rpc.hold(true);
  const began = Date.now();
  for (let count = 1; count <= 2; count++) {
    const client = await connectTo(port);
    client.write(call(count));
    await endOf(client);
  }

  // One second at first, at least two at the second try.
  expect(Date.now() - began).toBeGreaterThan(2_900);
  const stalls = worker.said.filter((said) => said.kind === 'log' && said.event === 'session.stalled');
  expect(stalls.map((said) => said.kind === 'log' && said.fields['stallsInARow'])).toEqual([1, 2]);
});

test('bytes that are no RPC records flow on, and the log says once that nothing is known of them', async () => {
  const { worker, peer, port } = await start();
  const client = await connectTo(port);
  client.write('no records at all, thank you');
  const upstream = await peer.connection(0);
  await expect.poll(() => upstream.bytesRead).toBe(28);
  client.write('and more');
  upstream.write('nor here');

  expect((await read(client, 8)).toString()).toBe('nor here');
  await ticks(worker, 2_500);
  expect(worker.said.filter((said) => said.kind === 'log' && said.event === 'session.unparsed')).toHaveLength(
    1,
  );
  expect((await worker.totals()).tunnels[0]).toMatchObject({ sessions: 1 });
});

test('the pulse tells of each session how many requests wait for an answer, and for how long', async () => {
  const { worker, rpc, port } = await start(60_000);
  const client = await connectTo(port);
  await ask(client, 1);
  rpc.hold(true);
  client.write(call(2));
  client.write(call(3));
  await rpc.received(3);

  await expect
    .poll(async () => (await worker.totals()).tunnels[0]?.open[0]?.oldestMs)
    .toBeGreaterThanOrEqual(2_000);
  expect((await worker.totals()).tunnels[0]?.open).toMatchObject([
    { sessionId: 1, address: '127.0.0.1', connections: 1, inFlight: 2 },
  ]);
  rpc.hold(false);
  await readReply(client, 2);
  await readReply(client, 3);
  expect((await worker.totals()).tunnels[0]?.open).toMatchObject([{ inFlight: 0, oldestMs: 0 }]);
});

/** Lets the worker's own time pass: it answers, so it has ticked meanwhile. */
async function ticks(worker: Worker, ms: number): Promise<void> {
  const until = Date.now() + ms;
  while (Date.now() < until) {
    await worker.totals();
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}
