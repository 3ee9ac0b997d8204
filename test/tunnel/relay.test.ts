import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import type { SecureVersion, TLSSocket } from 'node:tls';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type FaultWire, openFaultWire } from '../support/fault-wire.ts';
import {
  connectTo,
  deadlineMs,
  endOf,
  type Peer,
  read,
  silent,
  startPeer,
  useTunnelStage,
  type Worker,
} from './stage.ts';

const stage = useTunnelStage();
const mebibyte = 1024 * 1024;

interface Scene {
  worker: Worker;
  peer: Peer;
  wire: FaultWire;
  port: number;
}

/** Under its permission model Node keeps its inside to itself: the worker has to write to the streams. */
const closedNode = [
  ['--permission', '--experimental-permission'].find((flag) =>
    process.allowedNodeEnvironmentFlags.has(flag),
  )!,
  '--allow-fs-read=*',
  ...['--allow-net'].filter((flag) => process.allowedNodeEnvironmentFlags.has(flag)),
];

test('a Node under its permission model does not show its inside', () => {
  const look = ["process.binding('stream_wrap')"];

  expect(spawnSync(process.execPath, ['-e', ...look]).status).toBe(0);
  expect(spawnSync(process.execPath, [...closedNode, '-e', ...look]).stderr.toString()).toContain(
    'ERR_ACCESS_DENIED',
  );
});

describe.each([
  { writes: 'past the streams', nodeFlags: [] },
  { writes: 'to the streams, as Node shows no inside', nodeFlags: closedNode },
])('a worker that writes $writes', ({ nodeFlags }) => {
  async function startTunnel(
    options: { serve?: (socket: TLSSocket) => void; maxVersion?: SecureVersion; budgetBytes?: number } = {},
  ): Promise<Scene> {
    const { budgetBytes = 64 * mebibyte, ...peerOptions } = options;
    const peer = await startPeer(stage.certificate, peerOptions);
    const wire = await openFaultWire(peer.port);
    const worker = await stage.startTunnel({ budgetBytes, dialTimeoutMs: 5_000, nodeFlags });
    stage.atEnd(peer.close, wire.close);
    const port = await worker.listen('t', [{ address: '127.0.0.1', port: wire.port }]);
    return { worker, peer, wire, port };
  }

  async function openSession(scene: Scene): Promise<{ client: Socket; upstream: TLSSocket }> {
    const index = scene.peer.connections.length;
    const client = await connectTo(scene.port);
    return { client, upstream: await scene.peer.connection(index) };
  }

  test('bytes arrive unchanged both ways, whatever the sizes and however the wire splits them', async () => {
    const scene = await startTunnel();
    const piece = fc.record({
      bytes: fc.integer({ min: 1, max: 120_000 }),
      fill: fc.integer({ min: 0, max: 255 }),
      wait: fc.boolean(),
    });

    await fc.assert(
      fc.asyncProperty(
        fc.array(piece, { minLength: 1, maxLength: 12 }),
        fc.constantFrom(null, 7, 1_000, 16_401),
        async (pieces, splitBytes) => {
          scene.wire.split(splitBytes);
          const client = await connectTo(scene.port);
          const sent = pieces.map(({ bytes, fill }, index) =>
            Buffer.from(Uint8Array.from({ length: bytes }, (_, at) => (fill + at * 31 + index) & 255)),
          );

          const back = read(
            client,
            sent.reduce((sum, chunk) => sum + chunk.length, 0),
          );
          for (const [index, chunk] of sent.entries()) {
            client.write(chunk);
            if (pieces[index]!.wait) await new Promise(setImmediate);
          }

          expect(Buffer.concat(sent).equals(await back)).toBe(true);
          client.end();
          await endOf(client);
        },
      ),
      { numRuns: 25 },
    );
  }, 60_000);

  test('bytes sent one at a time arrive unchanged in both directions', async () => {
    const scene = await startTunnel();
    scene.wire.split(1);
    const client = await connectTo(scene.port);
    const sent = Buffer.from(Uint8Array.from({ length: 700 }, (_, at) => at % 251));

    const back = read(client, sent.length);
    for (const byte of sent) {
      client.write(Buffer.of(byte));
      await new Promise(setImmediate);
    }

    expect(sent.equals(await back)).toBe(true);
  });

  test('many MiB flow both ways at once without a changed byte', async () => {
    const scene = await startTunnel();
    const { client } = await openSession(scene);
    const block = Buffer.from(Uint8Array.from({ length: mebibyte }, (_, at) => (at * 7 + (at >> 11)) & 255));

    const back = read(client, 24 * mebibyte);
    for (let count = 0; count < 24; count++) client.write(block);
    const got = await back;

    for (let count = 0; count < 24; count++) {
      expect(block.equals(got.subarray(count * mebibyte, (count + 1) * mebibyte))).toBe(true);
    }
    expect((await scene.worker.totals()).tunnels).toMatchObject([
      { tunnelId: 't', sessions: 1, bytesUp: 24 * mebibyte, bytesDown: 24 * mebibyte },
    ]);
  }, 30_000);

  test('when the NFS client ends its side, the mount target sees the end and its answer still arrives', async () => {
    const scene = await startTunnel({ serve: () => {} });
    const { client, upstream } = await openSession(scene);
    client.end('question');

    expect((await read(upstream, 8)).toString()).toBe('question');
    await endOf(upstream);
    upstream.end('the answer');

    expect((await read(client, 10)).toString()).toBe('the answer');
    expect(await endOf(client)).toBe('end');
    const closed = await scene.worker.hears('session.closed');
    expect(closed).toMatchObject({ cause: 'local-end', bytesUp: 8, bytesDown: 10 });
  });

  test('when the mount target ends its side, the NFS client sees the end and can still send', async () => {
    const scene = await startTunnel({ serve: () => {} });
    const { client, upstream } = await openSession(scene);
    upstream.end('goodbye');

    expect((await read(client, 7)).toString()).toBe('goodbye');
    expect(await endOf(client)).toBe('end');
    client.end('last words');

    expect((await read(upstream, 10)).toString()).toBe('last words');
    const closed = await scene.worker.hears('session.closed');
    expect(closed).toMatchObject({ cause: 'upstream-end', bytesUp: 10, bytesDown: 7 });
  });

  test.each(['TLSv1.2', 'TLSv1.3'] as const)(
    'what a %s mount target sends at once is not lost',
    async (version) => {
      const scene = await startTunnel({
        maxVersion: version,
        serve: (socket) => void socket.write('early word'),
      });

      const client = await connectTo(scene.port);

      expect((await read(client, 10)).toString()).toBe('early word');
    },
  );

  test('a FIN of the wire without a TLS goodbye reaches the NFS client as the end', async () => {
    const scene = await startTunnel({ serve: silent });
    const { client } = await openSession(scene);

    scene.wire.halfClose('dialler');

    expect(await endOf(client)).toBe('end');
  });

  test('a reset from the NFS client ends the TLS session within one second', async () => {
    const scene = await startTunnel({ serve: silent });
    const { client, upstream } = await openSession(scene);
    client.write('x');
    await scene.worker.hears('session.connected');

    client.resetAndDestroy();

    await expect.poll(() => upstream.readableEnded || upstream.destroyed).toBe(true);
    expect(await scene.worker.hears('session.closed')).toMatchObject({ cause: 'local-reset' });
    expect((await scene.worker.totals()).tunnels[0]).toMatchObject({ sessions: 0 });
    upstream.end();
    await expect.poll(() => scene.wire.open()).toBe(0);
  });

  test('a reset from the NFS client that arrives together with its last bytes is still seen as a reset', async () => {
    const scene = await startTunnel({ serve: silent });
    const { client } = await openSession(scene);
    await scene.worker.hears('session.connected');

    scene.worker.child.kill('SIGSTOP');
    client.write('x', () => client.resetAndDestroy());
    await once(client, 'close');
    scene.worker.child.kill('SIGCONT');

    expect(await scene.worker.hears('session.closed')).toMatchObject({ sessionId: 1, cause: 'local-reset' });
  });

  test('a reset of the TLS connection resets the NFS client at once, so that the kernel reconnects', async () => {
    const scene = await startTunnel({ serve: silent });
    const { client } = await openSession(scene);
    client.write('x');
    await scene.worker.hears('session.connected');
    const ended = endOf(client);

    scene.wire.reset();

    expect(await ended).toBe('reset');
    expect(await scene.worker.hears('session.closed')).toMatchObject({ cause: 'upstream-reset' });
    const again = await openSession(scene);
    expect(again.client.destroyed).toBe(false);
  });

  test('bytes that are damaged on the wire end the session instead of arriving', async () => {
    const scene = await startTunnel({ serve: () => {} });
    const { client } = await openSession(scene);
    await scene.worker.hears('session.connected');
    const ended = endOf(client);

    for (const socket of scene.peer.plainSockets) socket.write('this is no TLS record');

    expect(await ended).toBe('reset');
    expect(await scene.worker.hears('session.closed')).toMatchObject({
      cause: 'upstream-reset',
      bytesDown: 0,
    });
  });

  test('a connection that closes without a byte is a port probe and just ends', async () => {
    const scene = await startTunnel();

    const client = await connectTo(scene.port);
    client.destroy();

    expect(await scene.worker.hears('session.closed')).toMatchObject({
      cause: 'local-end',
      bytesUp: 0,
      bytesDown: 0,
    });
    expect((await scene.worker.totals()).tunnels[0]).toMatchObject({ sessions: 0 });
  });

  test.each([
    ['close without a byte', 'local-end', (client: Socket) => void client.destroy()],
    ['are reset', 'local-reset', (client: Socket) => void client.resetAndDestroy()],
  ])(
    'connections that %s at once end as %s, each of them, and none is dialled for in vain',
    async (_how, cause, leave) => {
      const scene = await startTunnel();

      for (let sessionId = 1; sessionId <= 50; sessionId++) {
        leave(await connectTo(scene.port));
        expect(
          await scene.worker.hears('session.closed', (said) => said.sessionId === sessionId),
        ).toMatchObject({
          cause,
        });
      }

      expect(scene.worker.child.exitCode).toBeNull();
      expect(scene.peer.connections.length).toBeLessThan(10);
    },
  );

  test('a client that asks and ends its side before its session begins gets its answer', async () => {
    const scene = await startTunnel();
    for (let count = 0; count < 20; count++) {
      const client = await connectTo(scene.port);
      client.end('question');

      expect((await read(client, 8)).toString()).toBe('question');
      expect(await endOf(client)).toBe('end');
    }
  });

  test('while the wire is silent the session stays, and it goes on when the wire does', async () => {
    const scene = await startTunnel();
    const { client } = await openSession(scene);
    client.write('before');
    await read(client, 6);

    scene.wire.silence();
    client.write('during');
    await expect.poll(async () => (await scene.worker.totals()).tunnels[0]?.bytesUp).toBe(12);
    expect(client.destroyed).toBe(false);
    scene.wire.resume();

    expect((await read(client, 6)).toString()).toBe('during');
  });

  test('a mount target that does not read makes the NFS client wait, and the worker holds little', async () => {
    const scene = await startTunnel({ serve: () => {} });
    const { client } = await openSession(scene);
    const block = Buffer.alloc(mebibyte, 1);

    scene.wire.stopReading('dialler');
    for (let count = 0; count < 64; count++) client.write(block);
    const most = await holdsAtMost(scene.worker);

    expect(client.writableLength).toBeGreaterThan(32 * mebibyte);
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThan(1.5 * mebibyte);
  });

  test('an NFS client that does not read makes the mount target wait, and the worker holds little', async () => {
    const scene = await startTunnel({ serve: () => {} });
    const { client, upstream } = await openSession(scene);
    client.pause();
    const block = Buffer.alloc(mebibyte, 1);

    for (let count = 0; count < 64; count++) upstream.write(block);
    const most = await holdsAtMost(scene.worker);

    expect(upstream.writableLength).toBeGreaterThan(32 * mebibyte);
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThan(1.5 * mebibyte);
    const all = read(client, 64 * mebibyte);
    expect((await all).length).toBe(64 * mebibyte);
    expect((await scene.worker.totals()).bufferedBytes).toBe(0);
  }, 30_000);

  test('sessions with slow peers together stay within the budget, and a quick one still moves', async () => {
    const budgetBytes = 2 * mebibyte;
    const scene = await startTunnel({
      serve: (socket) => void socket.once('data', (kind) => serveKind(socket, kind)),
      budgetBytes,
    });
    for (let count = 0; count < 6; count++) {
      const { client, upstream } = await openSession(scene);
      client.write('flood');
      await expect.poll(() => upstream.bytesRead).toBe(5);
    }
    await expect
      .poll(async () => (await scene.worker.totals()).bufferedBytes)
      .toBeGreaterThan(budgetBytes / 2);

    const { client } = await openSession(scene);
    client.write('quick');
    await read(client, 5);
    const back = read(client, 4 * mebibyte);
    client.write(Buffer.alloc(4 * mebibyte, 7));

    expect((await back).length).toBe(4 * mebibyte);
    // What one read brings may come on top, once for each direction of each session.
    expect(await holdsAtMost(scene.worker)).toBeLessThan(budgetBytes + 7 * 80 * 1024);
  }, 30_000);

  test('a session that has ended gives its part of the budget back', async () => {
    const scene = await startTunnel({ serve: () => {} });
    const { client } = await openSession(scene);
    client.write(Buffer.alloc(32 * mebibyte));
    await expect.poll(async () => (await scene.worker.totals()).bufferedBytes).toBeGreaterThan(0);

    client.resetAndDestroy();
    scene.wire.reset();

    await scene.worker.hears('session.closed');
    expect((await scene.worker.totals()).bufferedBytes).toBe(0);
  });
});

function serveKind(socket: TLSSocket, kind: Buffer): void {
  if (kind.toString() === 'flood')
    for (let count = 0; count < 32; count++) socket.write(Buffer.alloc(mebibyte));
  else {
    socket.write(kind);
    socket.pipe(socket);
  }
}

/** The most the worker holds from now until nothing has changed for a while. */
async function holdsAtMost(worker: Worker): Promise<number> {
  let most = 0;
  let last = '';
  let same = 0;
  const giveUpMs = Date.now() + deadlineMs;
  while (same < 20 && Date.now() < giveUpMs) {
    const { bufferedBytes, tunnels } = await worker.totals();
    most = Math.max(most, bufferedBytes);
    const now = JSON.stringify(tunnels);
    same = now === last ? same + 1 : 0;
    last = now;
    await once(worker.child, 'message', { signal: AbortSignal.timeout(20) }).catch(() => {});
  }
  return most;
}
