import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { expect, test } from 'vitest';
import { highestRssBytes } from '../support/processes.ts';
import { createRoot } from '../support/tls-certificates.ts';
import { connectTo, read, serverName, startPeer, useTunnelStage, type Worker } from './stage.ts';

/** What a mount target, or whoever answers for it, and a local client may send without an end, and what it costs. */

const mebibyte = 1_048_576;
/** What a worker takes without any of this is some 60 MiB; its buffers may take 64 more. */
const mostRssBytes = 200 * mebibyte;
const dialTimeoutMs = 2_000;

const stage = useTunnelStage();

/** A TCP server that does as it is told once the handshake has begun. */
async function startRawServer(answer: (socket: Socket) => void): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.once('data', () => answer(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  stage.atEnd(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

/** Writes the same again until nobody takes it any more. */
function repeat(socket: Socket, bytes: Buffer): void {
  const part = Buffer.concat(Array.from({ length: Math.ceil(65_536 / bytes.length) }, () => bytes));
  const more = () => {
    while (!socket.destroyed && socket.write(part));
  };
  socket.on('drain', more);
  more();
}

/** Writes a byte at a time, for ever. */
function drip(socket: Socket, bytes: Buffer): void {
  let at = 0;
  const timer = setInterval(() => socket.write(bytes.subarray(at, ++at)), 20);
  socket.on('close', () => clearInterval(timer));
}

/** A record of TLS 1.2: type, version, length. */
const tlsRecord = (type: number, body: Buffer) =>
  Buffer.concat([Buffer.from([type, 3, 3, body.length >> 8, body.length & 0xff]), body]);
const [alert, handshake] = [21, 22];

async function probe(
  worker: Worker,
  port: number,
): Promise<{ code: string; message: string; tookMs: number }> {
  const startedMs = performance.now();
  const requestId = port;
  const endpoints = [{ address: '127.0.0.1', port }];
  worker.tell({ kind: 'tunnel.probe', tunnelId: 't', requestId, endpoints });
  const [done, failed] = [worker.hears('probe.done'), worker.hears('probe.failed')];
  done.catch(() => {});
  failed.catch(() => {});
  const outcome = await Promise.race([done, failed]);
  return {
    code: outcome.kind === 'probe.done' ? 'done' : outcome.error.code,
    message: outcome.kind === 'probe.done' ? '' : outcome.error.message,
    tookMs: performance.now() - startedMs,
  };
}

const handshakes: [what: string, answer: (socket: Socket) => void, code: string][] = [
  [
    'drips its hello',
    (socket) =>
      drip(
        socket,
        Buffer.concat([Buffer.from([22, 3, 3, 0x3f, 0xff, 2, 0, 0x3f, 0xf0]), Buffer.alloc(16_384)]),
      ),
    'target.silent',
  ],
  [
    'drips empty records',
    (socket) => drip(socket, Buffer.alloc(4_096, tlsRecord(handshake, Buffer.alloc(0)))),
    'target.silent',
  ],
  [
    'sends a hello of 16 MiB',
    (socket) => {
      socket.write(tlsRecord(handshake, Buffer.from([2, 0xff, 0xff, 0xff])));
      repeat(socket, tlsRecord(handshake, Buffer.alloc(16_000)));
    },
    'tls.failed',
  ],
  [
    'sends warnings without end',
    (socket) => repeat(socket, tlsRecord(alert, Buffer.from([1, 100]))),
    'tls.failed',
  ],
  [
    'sends empty records without end',
    (socket) => repeat(socket, tlsRecord(handshake, Buffer.alloc(0))),
    'tls.failed',
  ],
  ['sends zeros without end', (socket) => repeat(socket, Buffer.alloc(1_024)), 'tls.failed'],
  ['sends HTTP without end', (socket) => repeat(socket, Buffer.from('HTTP/1.1 200 OK\r\n')), 'tls.failed'],
  ['says nothing', () => {}, 'target.silent'],
];

test.each(handshakes)(
  'a mount target that %s is given up in time, and takes no memory',
  async (_what, answer, code) => {
    const worker = await stage.startTunnel({ dialTimeoutMs });

    const outcome = await probe(worker, await startRawServer(answer));

    expect(outcome.code).toBe(code);
    expect(outcome.tookMs).toBeLessThan(5 * dialTimeoutMs);
    expect(highestRssBytes(worker.child.pid!)).toBeLessThan(mostRssBytes);
    expect(worker.child.exitCode).toBeNull();
  },
);

const root = createRoot({ commonName: 'Giant' });
const leaf = root.issue({ names: [{ dns: serverName }] });
const names = (count: number) => Array.from({ length: count }, (_, index) => ({ dns: `n${index}.example` }));

const certificates: [what: string, chain: () => { pem: string; keyPem: string }, code: string][] = [
  [
    'a chain of three MiB',
    () => ({ pem: leaf.pem + root.pem.repeat(2_500), keyPem: leaf.keyPem }),
    'tls.failed',
  ],
  [
    'a certificate with a name of 20 KiB',
    () => createRoot({ commonName: 'x'.repeat(20_000), isAuthority: false }),
    'tls.untrusted',
  ],
  [
    'a certificate for four thousand names',
    () => createRoot({ names: names(4_000), isAuthority: false }),
    'tls.untrusted',
  ],
  [
    'a certificate for twenty thousand names',
    () => createRoot({ names: names(20_000), isAuthority: false }),
    'tls.failed',
  ],
];

test.each(certificates)(
  'a mount target that presents %s is refused with a short text, and takes no memory',
  async (_what, chain, code) => {
    const { pem, keyPem } = chain();
    const worker = await stage.startTunnel({ dialTimeoutMs });
    const peer = await startPeer({ certificatePem: pem, privateKeyPem: keyPem });
    stage.atEnd(peer.close);

    const outcome = await probe(worker, peer.port);

    expect(outcome.code).toBe(code);
    expect(outcome.message.length).toBeLessThan(1_024);
    expect(outcome.tookMs).toBeLessThan(5 * dialTimeoutMs);
    expect(highestRssBytes(worker.child.pid!)).toBeLessThan(mostRssBytes);
  },
);

const fragment = (mark: number, body = Buffer.alloc(0)) => {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(mark >>> 0);
  return Buffer.concat([head, body]);
};
/** A transaction id, and that it is a call. */
const callHead = Buffer.from([0, 0, 0, 1, 0, 0, 0, 0]);

const streams: [what: string, bytes: Buffer, again: Buffer][] = [
  ['a fragment of 2 GiB', fragment(0xffff_ffff, callHead), Buffer.alloc(65_536)],
  ['fragments of 2 GiB that are never the last', fragment(0x7fff_ffff, callHead), Buffer.alloc(65_536)],
  ['fragments of a byte that are never the last', fragment(8, callHead), fragment(1, Buffer.from('x'))],
  ['empty fragments that are never the last', fragment(8, callHead), fragment(0)],
  ['empty records', Buffer.alloc(0), fragment(0x8000_0000)],
  ['bytes that are no records', Buffer.from('GET / HTTP/1.1\r\n'), Buffer.from('x: y\r\n')],
];
const passedBytes = 48 * mebibyte;

/** Another mount is served at once, and the worker has neither grown nor ended. */
async function expectUnharmed(worker: Worker): Promise<void> {
  const quick = await startPeer(stage.certificate);
  stage.atEnd(quick.close);
  const other = await connectTo(await worker.listen('t', [quick.endpoint]));
  other.write('quick');

  expect((await read(other, 5)).toString()).toBe('quick');
  expect(highestRssBytes(worker.child.pid!)).toBeLessThan(mostRssBytes);
  expect(worker.child.exitCode).toBeNull();
}

test.each(streams)(
  '%s from a local client, without an end, pass and take no memory, and others are served',
  async (_what, first, again) => {
    const worker = await stage.startTunnel();
    let gotBytes = 0;
    const peer = await startPeer(stage.certificate, {
      serve: (socket) => socket.on('data', (chunk) => (gotBytes += chunk.length)),
    });
    stage.atEnd(peer.close);
    const client = await connectTo(await worker.listen('t', [peer.endpoint]));
    stage.atEnd(async () => client.destroy());

    client.write(first);
    repeat(client, again);
    await expect.poll(() => gotBytes).toBeGreaterThan(passedBytes);

    await expectUnharmed(worker);
  },
  60_000,
);

test.each(streams)(
  '%s from a mount target, without an end, pass and take no memory, and others are served',
  async (_what, first, again) => {
    const worker = await stage.startTunnel();
    const peer = await startPeer(stage.certificate, {
      serve: (socket) => {
        socket.write(first);
        repeat(socket, again);
      },
    });
    stage.atEnd(peer.close);
    const client = await connectTo(await worker.listen('t', [peer.endpoint]));
    stage.atEnd(async () => client.destroy());
    let gotBytes = 0;
    client.on('data', (chunk) => (gotBytes += chunk.length));

    client.write('ask');
    await expect.poll(() => gotBytes).toBeGreaterThan(passedBytes);

    await expectUnharmed(worker);
  },
  60_000,
);

test('local clients that send a record mark a byte at a time keep nobody waiting', async () => {
  const worker = await stage.startTunnel();
  const peer = await startPeer(stage.certificate);
  stage.atEnd(peer.close);
  const port = await worker.listen('t', [peer.endpoint]);

  for (let count = 0; count < 50; count += 1) {
    const slow = await connectTo(port);
    slow.resume();
    drip(slow, Buffer.alloc(4_096, 0x80));
    stage.atEnd(async () => slow.destroy());
  }
  const quick = await connectTo(port);
  quick.write('quick');

  expect((await read(quick, 5)).toString()).toBe('quick');
  expect(highestRssBytes(worker.child.pid!)).toBeLessThan(mostRssBytes);
});

test('a mount target that tries to renegotiate in the middle of a session gets none; the session ends and the next is served', async () => {
  const worker = await stage.startTunnel();
  const peer = await startPeer(stage.certificate, { maxVersion: 'TLSv1.2' });
  stage.atEnd(peer.close);
  const port = await worker.listen('t', [peer.endpoint]);
  const client = await connectTo(port);
  client.write('before');
  await read(client, 6);
  const upstream = await peer.connection(0);

  const outcome = await new Promise<string>((resolve) => {
    upstream.renegotiate({}, (error) => resolve(error === null ? 'renegotiated' : 'refused'));
    upstream.once('error', () => resolve('refused'));
  });
  const next = await connectTo(port);
  next.write('next');

  expect(outcome).toBe('refused');
  expect((await read(next, 4)).toString()).toBe('next');
  expect(worker.child.exitCode).toBeNull();
});
