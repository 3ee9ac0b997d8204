import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { promisify } from 'node:util';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { formatBindReply, parseBind } from '../../src/target/bind.ts';
import { buildBundle, removeBundle } from '../support/bundle.ts';
import { record } from '../support/rpc.ts';
import { startWorker } from '../tunnel/stage.ts';
import { connectTls, fileSystemId, openStage, runNfs, type Stage, whyNoServer } from './stage.ts';

const hex = (text: string) => Buffer.from(text.replaceAll(/\s/g, ''), 'hex');
// The examples of specification 3.4, byte by byte.
const bindCall = (incarnation = 2, uuid = '3f2c1a4b5d6e4f708192a3b4c5d6e7f8') =>
  hex(`80000048 1a2b3c4d 00000000 00000002 00061afb 00000001 00000002
    00000000 00000000 00000000 00000000 00000010 ${uuid}
    00000008 00000000 ${incarnation.toString(16).padStart(8, '0')}`);
const nullCall = (xid: number) => {
  const payload = Buffer.alloc(40);
  [xid, 0, 2, 100_003, 4, 0].forEach((word, index) => {
    payload.writeUInt32BE(word, 4 * index);
  });
  return record(payload);
};

describe('the bind call', () => {
  test('is read as the specification shows it, in both forms', () => {
    const former = bindCall();
    hex('00018768 00000001 00000001').copy(former, 16);
    const bind = { xid: 0x1a2b3c4d, proxyId: '3f2c1a4b5d6e4f708192a3b4c5d6e7f8', incarnation: 2n };

    expect(parseBind(bindCall())).toEqual({ ...bind, form: 'current' });
    expect(parseBind(former)).toEqual({ ...bind, form: 'former' });
  });

  test('is recognised by its last byte and not before, and NFS by its fourth', () => {
    for (let bytes = 0; bytes < 76; bytes++) expect(parseBind(bindCall().subarray(0, bytes))).toBeUndefined();
    expect(parseBind(nullCall(1).subarray(0, 3))).toBeUndefined();
    expect(parseBind(nullCall(1).subarray(0, 4))).toBeNull();
  });

  test('any other bytes are told apart, and never make it throw', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 76, maxLength: 90 }), fc.boolean(), (noise, withMark) => {
        const bytes = Buffer.from(noise);
        if (withMark) hex('80000048').copy(bytes);

        expect(parseBind(bytes)).toBeNull();
      }),
    );
  });

  test('is answered as the specification shows', () => {
    const bind = parseBind(bindCall())!;
    const multiplexing = { maxConnections: 5, thresholdBytesPerSecond: 314_572_800 };
    const partition = Buffer.from(Array.from({ length: 64 }, (_, at) => at));

    expect(formatBindReply(bind, { type: 'ready', partition }, multiplexing)).toEqual(
      hex(`8000006c 1a2b3c4d 00000001 00000000 00000000 00000000 00000000 00000003
        ${partition.toString('hex')} 00000005 12c00000 00000001 00000001`),
    );
    expect(formatBindReply(bind, { type: 'retryLater', message: 'busy' }, multiplexing)).toEqual(
      hex(`80000034 1a2b3c4d 00000001 00000000 00000000 00000000 00000000
        00000001 00000004 62757379 00000005 12c00000 00000001 00000001`),
    );
  });
});

describe.skipIf(whyNoServer !== null)('a mount target that binds', () => {
  let stage: Stage;
  let bundle = '';
  let undo: (() => Promise<void>)[] = [];
  beforeAll(async () => {
    stage = await openStage({
      multiplexing: { maxConnections: 3, thresholdBytesPerSecond: 0 },
      limitBytesPerSecond: 20 * 1024 * 1024,
    });
    bundle = await buildBundle('src/tunnel/worker.ts');
  });
  afterAll(async () => {
    await stage.close();
    await removeBundle(bundle);
  });
  afterEach(async () => {
    for (const step of undo.reverse()) await step();
    undo = [];
  });

  async function bound(incarnation: number, uuid?: string): Promise<{ socket: TLSSocket; reply: Buffer }> {
    const socket = await connectTls(stage, null);
    undo.push(async () => void socket.destroy());
    socket.on('error', () => {});
    socket.write(bindCall(incarnation, uuid));
    const [reply] = (await once(socket, 'data')) as [Buffer];
    return { socket, reply };
  }

  test('gives all connections of one file system the same partition, and lets them serve', async () => {
    const first = await bound(1);
    const second = await bound(1);

    expect(second.reply.subarray(32, 96)).toEqual(first.reply.subarray(32, 96));
    for (const [index, { socket }] of [first, second].entries()) {
      socket.write(nullCall(index + 1));
      const [answer] = (await once(socket, 'data')) as [Buffer];
      expect(answer.readUInt32BE(4)).toBe(index + 1);
    }
  });

  test('ends the connections of an earlier incarnation, and refuses to go back to it', async () => {
    const uuid = randomBytes(16).toString('hex');
    const { socket } = await bound(1, uuid);
    const ended = once(socket, 'close');
    await bound(2, uuid);
    await ended;

    const late = await bound(1, uuid);

    expect(late.reply.readUInt32BE(28)).toBe(4);
  });

  test('binds no more connections than it says', async () => {
    const uuid = randomBytes(16).toString('hex');
    const types: number[] = [];
    for (let count = 0; count < 4; count++) types.push((await bound(1, uuid)).reply.readUInt32BE(28));

    expect(types).toEqual([3, 3, 3, 1]);
  });

  test('carries files unchanged for a tunnel with several connections', async () => {
    const worker = await startWorker(bundle, { maxConnections: 5 });
    undo.push(worker.stop);
    worker.tell({
      kind: 'tunnel.open',
      tunnelId: 't',
      tls: {
        trustedRootsPem: [readFileSync(stage.target.caFile, 'utf8')],
        serverName: `${fileSystemId}.efs.us-east-1.amazonaws.com`,
        client: null,
      },
      dialTimeoutMs: 5_000,
    });
    const port = await worker.listen('t', [{ address: '127.0.0.1', port: stage.port }]);
    const bytes = randomBytes(48 * 1024 * 1024);
    await writeFile(join(stage.directory, 'export', 'large'), bytes);
    const copy = join(stage.directory, 'copy');
    const small = join(stage.directory, 'small');
    await writeFile(small, 'written over several connections');

    const copying = promisify(execFile)('nfs-cp', [`nfs://127.0.0.1//large?version=4&nfsport=${port}`, copy]);
    expect((await worker.logs('session.widened')).fields).toMatchObject({ connections: 3 });
    await copying;
    await runNfs(port, 'nfs-cp', small, '{/small}');

    expect(digest(readFileSync(copy))).toBe(digest(bytes));
    expect(readFileSync(join(stage.directory, 'export', 'small'), 'utf8')).toBe(
      'written over several connections',
    );
  }, 60_000);
});

if (whyNoServer !== null) console.warn(`skipped: a mount target that binds: ${whyNoServer}`);

function digest(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}
