import { once } from 'node:events';
import type { Socket } from 'node:net';
import { createSecureContext } from 'node:tls';
import { expect, test } from 'vitest';
import { AgentError } from '../../src/core/errors.ts';
import { DialTurns } from '../../src/tunnel/dial-turns.ts';
import { openFaultWire } from '../support/fault-wire.ts';
import { connectTo, echo, endOf, material, serverName, startPeer, useTunnelStage } from './stage.ts';

const stage = useTunnelStage();
const target = { address: '10.1.1.6', port: 2049 };
const other = { address: '10.1.1.7', port: 2049 };

test('sixteen sessions greet a mount target at once, the next when one of them is done, and another address is dialled at once', async () => {
  const { dials, start } = openTurns();
  for (let session = 0; session < 20; session++) start(target, `tunnel ${session}`);
  await turnOfTheLoop();
  expect(dials).toHaveLength(16);

  start(other, 'tunnel 20');
  await turnOfTheLoop();
  expect(dials).toHaveLength(17);
  dials[0]!.end();
  dials[1]!.end();
  await turnOfTheLoop();

  expect(dials.map(({ tunnelId }) => tunnelId).slice(-3)).toEqual(['tunnel 20', 'tunnel 16', 'tunnel 17']);
});

test('dials that hang give way to all the others after a while, and go on', async () => {
  const { dials, start } = openTurns();
  for (let session = 0; session < 48; session++) start(target, 'dead', session % 2 === 0);

  const last = start(target, 'alive');

  await expect.poll(() => dials.some(({ tunnelId }) => tunnelId === 'alive')).toBe(true);
  dials.find(({ tunnelId }) => tunnelId === 'alive')!.end();
  await last.run;
  await expect.poll(() => dials.length).toBe(49);
  for (const dial of dials) dial.end();
});

test('a session that ends before its turn never dials, and one that ends later makes room', async () => {
  const { dials, start } = openTurns();
  for (let session = 0; session < 16; session++) start(target, 'first');
  const ending = new AbortController();
  const unwanted = start(target, 'unwanted', true, ending.signal);
  start(target, 'next');

  ending.abort();

  await expect(unwanted.run).rejects.toThrow(AgentError);
  await expect(start(target, 'too late', true, ending.signal).run).rejects.toThrow(AgentError);
  dials[0]!.fail();
  await turnOfTheLoop();
  expect(dials.slice(16).map(({ tunnelId }) => tunnelId)).toEqual(['next']);
});

test('after 200 NFS connections have lost their mount target in one moment, all are back, and it never had more than a few to greet at once', async () => {
  const { certificatePem: cert, privateKeyPem: key } = stage.certificate;
  const context = createSecureContext({ cert, key });
  let greeted = 0;
  let most = 0;
  let takesMs = 0;
  const peer = await startPeer(stage.certificate, {
    SNICallback: (_name, done) => {
      greeted += 1;
      most = Math.max(most, greeted);
      setTimeout(() => done(null, context), takesMs);
    },
    serve: (socket) => {
      greeted -= 1;
      echo(socket);
    },
  });
  const wire = await openFaultWire(peer.port);
  const worker = await stage.startWorker();
  stage.atEnd(peer.close, wire.close);
  const ports: number[] = [];
  for (let at = 0; at < 20; at++) {
    const tunnelId = `tunnel ${at}`;
    const tls = material(stage.ca.rootPem, serverName);
    worker.tell({ kind: 'tunnel.open', tunnelId, tls, dialTimeoutMs: 60_000 });
    ports.push(await worker.listen(tunnelId, [{ address: '127.0.0.1', port: wire.port }]));
  }
  const clients = ports.flatMap((port) => Array.from({ length: 10 }, () => openClient(port)));
  await Promise.all(clients.map(({ carried }) => carried()));
  most = 0;
  takesMs = 200;

  wire.reset();
  await Promise.all(clients.map(({ carriedAgain }) => carriedAgain()));

  // Sixteen, and on a machine that has no time for them those whose second was over.
  expect(most).toBeGreaterThan(1);
  expect(most).toBeLessThan(48);
  for (const { close } of clients) close();
});

/** An NFS client as a kernel is one: it connects again at once. */
function openClient(port: number) {
  const first = connectTo(port);
  let latest: Socket | null = null;
  const carry = async (socket: Socket) => {
    latest = socket;
    socket.write('x');
    expect(String(await once(socket, 'data'))).toBe('x');
  };
  return {
    carried: async () => carry(await first),
    carriedAgain: async () => {
      const socket = await first;
      await endOf(socket);
      await carry(await connectTo(port));
    },
    close: () => latest?.destroy(),
  };
}

function openTurns() {
  const turns = new DialTurns();
  const dials: { tunnelId: string; end(): void; fail(): void }[] = [];
  return {
    dials,
    start(endpoint: typeof target, tunnelId: string, connects = true, signal = new AbortController().signal) {
      const run = turns.run(endpoint, tunnelId, signal, (connected) => {
        if (connects) connected();
        return new Promise<void>((end, reject) => {
          dials.push({ tunnelId, end, fail: () => reject(new Error('refused')) });
        });
      });
      run.catch(() => {});
      return { run };
    },
  };
}

function turnOfTheLoop(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
