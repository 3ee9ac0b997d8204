import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { Gatherer, SlabPool } from '../../src/tunnel/gather.ts';

const kibibyte = 1024;
const recordBytes = 16 * kibibyte;

let undo: (() => void)[] = [];
afterEach(() => {
  for (const step of undo) step();
  undo = [];
});

class CountingPool extends SlabPool {
  lent = 0;
  most = 0;

  override take(): Buffer {
    this.lent++;
    this.most = Math.max(this.most, this.lent);
    return super.take();
  }

  override give(slab: Buffer): void {
    this.lent--;
    super.give(slab);
  }
}

async function openPair(): Promise<{ sink: Socket; reader: Socket }> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const sink = connect((server.address() as AddressInfo).port, '127.0.0.1');
  const [reader] = (await once(server, 'connection')) as [Socket];
  undo.push(() => {
    for (const socket of [sink, reader]) socket.destroy();
    server.close();
  });
  return { sink, reader };
}

test('a reader that always lags behind gets every byte, and few blocks are ever in use', async () => {
  const { sink, reader } = await openPair();
  const pool = new CountingPool();
  const totalRecords = 4_000;
  let sent = 0;
  const fill = (): void => {
    while (sent < totalRecords && gatherer.heldBytes < 1024 * kibibyte) gatherer.add(record(sent++));
  };
  const gatherer = new Gatherer(sink, pool, fill);
  fill();

  let got = 0;
  let wrong = 0;
  while (got < totalRecords * recordBytes) {
    const chunk: Buffer | null = reader.read();
    if (chunk === null) {
      await once(reader, 'readable', { signal: AbortSignal.timeout(5_000) });
      continue;
    }
    for (let at = 0; at < chunk.length; at += 509) {
      if (chunk[at] !== (Math.floor((got + at) / recordBytes) & 255)) wrong++;
    }
    got += chunk.length;
  }

  expect(wrong).toBe(0);
  expect(pool.most).toBeLessThanOrEqual(8);
  await expect.poll(() => pool.lent).toBe(0);
  expect(gatherer.heldBytes).toBe(0);
});

test('an answer after which nothing is expected leaves at once', async () => {
  const { sink, reader } = await openPair();
  const gatherer = new Gatherer(sink, new SlabPool(), () => {});

  gatherer.add(Buffer.from('answer'), false);

  expect(sink.bytesWritten).toBe(6);
  await once(reader, 'readable');
  expect(String(reader.read())).toBe('answer');
});

test('bytes that come in the same turn leave together when it ends', async () => {
  const { sink } = await openPair();
  const gatherer = new Gatherer(sink, new SlabPool(), () => {});

  for (let count = 0; count < 5; count++) gatherer.add(record(count));

  expect(sink.bytesWritten).toBe(0);
  await expect.poll(() => gatherer.heldBytes).toBe(0);
  expect(sink.bytesWritten).toBe(5 * recordBytes);
});

test('what is put into the room that was lent arrives in its place, and no block is used by two', async () => {
  const { sink, reader } = await openPair();
  const pool = new CountingPool();
  const gatherer = new Gatherer(sink, pool, () => {});
  const other = new Gatherer((await openPair()).sink, pool, () => {});
  const expected: Buffer[] = [];

  for (let index = 0; index < 300; index++) {
    const room = index % 4 === 0 ? record(index) : gatherer.lendRoom();
    if (index % 4 === 0) gatherer.takeRoomBack();
    const bytes = room.subarray(0, 1 + ((index * 7_919) % recordBytes));
    bytes.fill(index);
    expected.push(Buffer.from(bytes));
    gatherer.add(bytes, index % 3 !== 0);
    other.add(record(255), false);
    if (index === 150) gatherer.abandonRoom();
    if (index % 50 === 0) await new Promise((wake) => setImmediate(wake));
  }

  const all = Buffer.concat(expected);
  const got: Buffer[] = [];
  for (let bytes = 0; bytes < all.length; ) {
    const chunk: Buffer | null = reader.read();
    if (chunk === null) await once(reader, 'readable', { signal: AbortSignal.timeout(5_000) });
    else bytes += got.push(chunk) && chunk.length;
  }
  expect(Buffer.concat(got).equals(all)).toBe(true);
});

function record(index: number): Buffer {
  return Buffer.alloc(recordBytes, index & 255);
}

test('bytes after which nothing is expected keep their order with those that are gathered', async () => {
  const { sink, reader } = await openPair();
  const gatherer = new Gatherer(sink, new SlabPool(), () => {});

  for (let index = 0; index < 200; index++) gatherer.add(Uint8Array.of(index), index % 3 !== 0);

  const got: number[] = [];
  while (got.length < 200) {
    const chunk: Buffer | null = reader.read();
    if (chunk === null) await once(reader, 'readable', { signal: AbortSignal.timeout(5_000) });
    else got.push(...chunk);
  }
  expect(got).toEqual(Array.from({ length: 200 }, (_, index) => index));
});
