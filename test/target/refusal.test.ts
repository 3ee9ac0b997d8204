import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createRefusal } from '../../src/target/refusal.ts';

/** An RPC call with its record mark; `words` follow the AUTH_NONE credentials and verifier. */
function call(xid: number, program: number, version: number, procedure: number, ...words: number[]): Buffer {
  const body = [xid, 0, 2, program, version, procedure, 0, 0, 0, 0, ...words];
  const bytes = Buffer.alloc(4 + 4 * body.length);
  bytes.writeUInt32BE(0x8000_0000 + 4 * body.length);
  body.forEach((word, index) => void bytes.writeUInt32BE(word, 4 + 4 * index));
  return bytes;
}

const nullCall = call(0x1a2b3c4d, 100_003, 4, 0);
/** An empty tag, the minor version, one operation. */
const compound = (minorVersion: number) => call(0x1a2b3c4e, 100_003, 4, 1, 0, minorVersion, 1, 42);

function answerTo(...chunks: Uint8Array[]): string {
  const refusal = createRefusal();
  return chunks
    .map(refusal)
    .map((step) => (step.kind === 'answer' ? step.bytes.toString('hex') : 'not RPC'))
    .join('');
}

const nullReply = '80000018 1a2b3c4d 00000001 00000000 00000000 00000000 00000000'.replaceAll(' ', '');
const denial = '80000014 1a2b3c4e 00000001 00000001 00000001 00000005'.replaceAll(' ', '');

describe('a client that may not mount', () => {
  test('gets the 28 bytes of a NULL reply', () => {
    expect(nullCall).toHaveLength(44);
    expect(answerTo(nullCall)).toBe(nullReply);
    expect(nullReply).toHaveLength(2 * 28);
  });

  test('gets 24 bytes for a COMPOUND: denied, authentication too weak', () => {
    expect(answerTo(compound(1))).toBe(denial);
    expect(answerTo(compound(0))).toBe(denial);
    expect(denial).toHaveLength(2 * 24);
  });

  test('is told that there is no NFS 4.2 before it is denied', () => {
    expect(answerTo(compound(2))).toBe(
      '80000024 1a2b3c4e 00000001 00000000 00000000 00000000 00000000 00002725 00000000 00000000'.replaceAll(
        ' ',
        '',
      ),
    );
  });

  test('is told that there is only version 4 of NFS', () => {
    expect(answerTo(call(1, 100_003, 3, 0))).toBe(
      '80000020 00000001 00000001 00000000 00000000 00000000 00000002 00000004 00000004'.replaceAll(' ', ''),
    );
  });

  test('is told that a bind call is of no known program', () => {
    expect(answerTo(call(0x1a2b3c4d, 400_123, 1, 2))).toBe(`${nullReply.slice(0, -1)}1`);
  });

  test('is given up on when it speaks something else', () => {
    expect(answerTo(Buffer.from('GET / HTTP/1.1\r\n\r\n'))).toBe('not RPC');
    expect(answerTo(Buffer.from('8000000400000000', 'hex'))).toBe('not RPC');
    expect(answerTo(Buffer.from('ffffffff', 'hex'))).toBe('not RPC');
  });

  test('gets the same answers however its bytes are cut, and none after the denial', () => {
    const bytes = Buffer.concat([nullCall, compound(1), nullCall]);
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 60 }), { maxLength: 20 }), (sizes) => {
        const chunks: Buffer[] = [];
        let at = 0;
        for (const size of sizes) {
          chunks.push(bytes.subarray(at, at + size));
          at += size;
        }
        chunks.push(bytes.subarray(at));

        expect(answerTo(...chunks)).toBe(nullReply + denial);
      }),
    );
    expect(answerTo(...Array.from(bytes, (byte) => Buffer.of(byte)))).toBe(nullReply + denial);
  });

  test('gets an answer or is given up on, whatever it sends', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 36, maxLength: 200 }), (bytes) => {
        const header = Buffer.from([0x80, 0, 0, bytes.length]);
        expect(['answer', 'not-rpc']).toContain(createRefusal()(Buffer.concat([header, bytes])).kind);
      }),
    );
  });
});
