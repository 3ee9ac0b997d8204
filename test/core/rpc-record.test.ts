import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { CallLedger, RecordReader } from '../../src/core/rpc-record.ts';
import { call, message, record, reply } from '../support/rpc.ts';

interface Seen {
  xid: number;
  isCall: boolean;
  recordBytes: number;
}

/** Feeds the pieces to a reader; what it says about each record, and at which offset each ended. */
function readAll(pieces: readonly Buffer[], reader = new RecordReader()): { seen: Seen[]; ends: number[] } {
  const seen: Seen[] = [];
  const ends: number[] = [];
  let offset = 0;
  for (const piece of pieces) {
    for (let at = 0; at < piece.length && !reader.lost; ) {
      at = reader.advance(piece, at);
      if (!reader.atBoundary || reader.lost) continue;
      seen.push({ xid: reader.xid, isCall: reader.isCall, recordBytes: reader.recordBytes });
      ends.push(offset + at);
    }
    offset += piece.length;
  }
  return { seen, ends };
}

function cut(bytes: Buffer, sizes: readonly number[]): Buffer[] {
  const pieces: Buffer[] = [];
  let at = 0;
  for (let turn = 0; at < bytes.length; turn++) {
    const size = sizes[turn % sizes.length]!;
    pieces.push(bytes.subarray(at, at + size));
    at += size;
  }
  return pieces;
}

const anyRecord = fc.record({
  xid: fc.nat(0xffff_ffff),
  isCall: fc.boolean(),
  payloadBytes: fc.integer({ min: 12, max: 300 }),
  fragments: fc.array(fc.integer({ min: 0, max: 60 }), { maxLength: 5 }),
});
const encode = (wanted: { xid: number; isCall: boolean; payloadBytes: number; fragments: number[] }) =>
  record(message(wanted.xid, wanted.isCall ? 0 : 1, wanted.payloadBytes), wanted.fragments);

describe('RecordReader', () => {
  test('finds every record, its head and its end, however the stream is cut', () => {
    fc.assert(
      fc.property(
        fc.array(anyRecord, { maxLength: 8 }),
        fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 6 }),
        (records, sizes) => {
          const encoded = records.map(encode);
          const { seen, ends } = readAll(cut(Buffer.concat(encoded), sizes));

          expect(seen).toEqual(
            records.map(({ xid, isCall }, index) => ({ xid, isCall, recordBytes: encoded[index]!.length })),
          );
          let end = 0;
          expect(ends).toEqual(encoded.map((bytes) => (end += bytes.length)));
        },
      ),
    );
  });

  test('says the same for a stream that comes one byte at a time', () => {
    fc.assert(
      fc.property(fc.array(anyRecord, { maxLength: 5 }), (records) => {
        const whole = Buffer.concat(records.map(encode));

        expect(readAll(cut(whole, [1]))).toEqual(readAll([whole]));
      }),
    );
  });

  test('knows the head as soon as its eight bytes have passed, and says once that it is new', () => {
    const reader = new RecordReader();
    const bytes = call(0xfedc_ba98, 100);

    reader.advance(bytes.subarray(0, 11), 0);
    expect([reader.headKnown, reader.headIsNew, reader.atBoundary]).toEqual([false, false, false]);
    reader.advance(bytes.subarray(11, 12), 0);
    expect([reader.headIsNew, reader.xid, reader.isCall]).toEqual([true, 0xfedc_ba98, true]);
    reader.advance(bytes.subarray(12, 50), 0);
    expect([reader.headKnown, reader.headIsNew]).toEqual([true, false]);
  });

  test('counts its way through fragments of almost 2 GiB', () => {
    const reader = new RecordReader();
    const block = Buffer.alloc(64 * 1024 * 1024);
    const fragment = 0x7fff_ffff;
    const head = Buffer.alloc(12);
    head.writeUInt32BE(fragment, 0);
    head.writeUInt32BE(7, 4);
    head.writeUInt32BE(1, 8);
    reader.advance(head, 0);
    let leftBytes = fragment - 8;
    while (leftBytes > 0) {
      const piece = block.subarray(0, Math.min(block.length, leftBytes));
      expect(reader.advance(piece, 0)).toBe(piece.length);
      leftBytes -= piece.length;
    }

    expect(reader.atBoundary).toBe(false);
    reader.advance(Buffer.from([0x80, 0, 0, 1, 9]), 0);
    expect([reader.atBoundary, reader.lost, reader.xid, reader.recordBytes]).toEqual([
      true,
      false,
      7,
      fragment + 9,
    ]);
  });

  test.each([
    ['a message type that is neither call nor reply', Buffer.from('80000018000000010000000200000000', 'hex')],
    ['text', Buffer.from('GET / HTTP/1.1\r\nHost: example\r\n\r\n')],
    ['a record too short for a head', Buffer.from('80000004000000018000', 'hex')],
    ['an empty record', Buffer.from('8000000000', 'hex')],
  ])('is lost at %s', (_what, bytes) => {
    const reader = new RecordReader();

    for (const piece of cut(bytes, [1])) if (!reader.lost) reader.advance(piece, 0);

    expect(reader.lost).toBe(true);
  });

  test('any bytes whatever make it neither throw nor stand still', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ minLength: 1, maxLength: 40 })), (chunks) => {
        const reader = new RecordReader();
        for (const chunk of chunks) {
          for (let at = 0; at < chunk.length && !reader.lost; ) {
            const to = reader.advance(chunk, at);
            expect(to).toBeGreaterThan(at);
            at = to;
          }
        }
      }),
    );
  });
});

describe('CallLedger', () => {
  const step = fc.record({ from: fc.constantFrom('client', 'server'), xid: fc.nat(5), isCall: fc.boolean() });

  test('holds exactly the calls of each side that the other has not answered', () => {
    fc.assert(
      fc.property(fc.array(step), (steps) => {
        const ledger = new CallLedger();
        const client = new Set<number>();
        const server = new Set<number>();
        for (const [tick, { from, xid, isCall }] of steps.entries()) {
          if (from === 'client') {
            ledger.sending(xid, isCall, tick);
            ledger.weigh(xid, 10);
            if (isCall) client.add(xid);
            else server.delete(xid);
          } else {
            ledger.received(xid, isCall);
            if (isCall) server.add(xid);
            else client.delete(xid);
          }

          expect(ledger.unanswered).toBe(client.size);
          expect(ledger.isEmpty).toBe(client.size + server.size === 0);
          if (client.size === 0) expect(ledger.outstandingBytes).toBe(0);
        }
      }),
    );
  });

  test('says how old the oldest unanswered call is', () => {
    const ledger = new CallLedger();
    ledger.sending(1, true, 10);
    ledger.sending(2, true, 15);

    expect(ledger.oldestTicks(20)).toBe(10);
    ledger.received(1, false);
    expect(ledger.oldestTicks(20)).toBe(5);
    ledger.received(2, false);
    expect(ledger.oldestTicks(20)).toBe(0);
  });

  test('weighs what is unanswered', () => {
    const ledger = new CallLedger();
    ledger.sending(1, true, 0);
    ledger.weigh(1, reply(1).length);
    ledger.weigh(1, 72);

    expect(ledger.outstandingBytes).toBe(100);
    ledger.received(1, false);
    expect(ledger.outstandingBytes).toBe(0);
  });
});
