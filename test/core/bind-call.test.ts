import fc from 'fast-check';
import { expect, test } from 'vitest';
import { encodeBindCall, maxBindReplyBytes, parseBindReply } from '../../src/core/bind-call.ts';

const identity = {
  id: Buffer.from('3f2c1a4b5d6e4f708192a3b4c5d6e7f8', 'hex'),
  incarnation: 2n,
};
const xid = 0x1a2b3c4d;
const hex = (text: string) => Buffer.from(text.replaceAll(/\s/g, ''), 'hex');
const partition = Array.from({ length: 64 }, (_, at) => at.toString(16).padStart(2, '0')).join('');
const replyHead = '1a2b3c4d 00000001 00000000 00000000 00000000 00000000';
const settings = { maxConnections: 5, thresholdBytesPerSec: 314_572_800, breachedSec: 1 };

// The examples of specification 3.4, byte by byte.
test('a bind call is encoded as the specification shows', () => {
  expect(encodeBindCall('current', xid, identity)).toEqual(
    hex(`80000048 1a2b3c4d 00000000 00000002 00061afb 00000001 00000002
      00000000 00000000 00000000 00000000 00000010 3f2c1a4b 5d6e4f70 8192a3b4 c5d6e7f8
      00000008 00000000 00000002`),
  );
});

test('the former form differs in program and procedure', () => {
  const former = encodeBindCall('former', xid, identity);

  expect(former.subarray(16, 28)).toEqual(hex('00018768 00000001 00000001'));
  expect(former.length).toBe(76);
});

test('READY is read with its partition and settings, in both forms', () => {
  const ready = { kind: 'ready', partition, settings };

  expect(
    parseBindReply(
      'current',
      xid,
      hex(`8000006c ${replyHead} 00000003 ${partition} 00000005 12c00000 00000001 00000001`),
    ),
  ).toEqual(ready);
  expect(
    parseBindReply(
      'former',
      xid,
      hex(`80000068 ${replyHead} 00000003 ${partition} 00000005 12c00000 00000001`),
    ),
  ).toEqual(ready);
});

test.each([
  [0, 'retry'],
  [1, 'refused'],
  [4, 'refused'],
])('a reply of type %i with a message is read as %s', (type, kind) => {
  const reply = hex(
    `80000034 ${replyHead} 0000000${type} 00000004 62757379 00000005 12c00000 00000001 00000001`,
  );

  expect(parseBindReply('current', xid, reply)).toEqual({ kind, settings });
});

test('what an ordinary NFS server answers is no surprise', () => {
  for (const status of [1, 2, 3, 4, 5]) {
    const bounds = status === 2 ? '00000001 00000002' : '';
    const reply = hex(
      `800000${status === 2 ? '20' : '18'} 1a2b3c4d 00000001 00000000 00000000 00000000 0000000${status} ${bounds}`,
    );
    expect(parseBindReply('current', xid, reply)).toEqual({ kind: 'unsupported' });
  }
});

test.each([
  ['of another call', `80000018 1a2b3c4e 00000001 00000000 00000000 00000000 00000001`],
  ['that is a call', `80000018 1a2b3c4d 00000000 00000002 00000000 00000000 00000001`],
  ['that is a denial', `80000014 1a2b3c4d 00000001 00000001 00000001 00000005`],
  ['in fragments', `00000008 1a2b3c4d 00000001`],
  ['followed by a byte', `80000018 1a2b3c4d 00000001 00000000 00000000 00000000 00000001 00`],
  ['with a partition that is cut short', `80000020 ${replyHead} 00000003 00010203`],
  ['with a message longer than itself', `80000020 ${replyHead} 00000000 7fffffff`],
  ['without settings', `8000005c ${replyHead} 00000003 ${partition}`],
  ['larger than any', `80100000`],
])('a reply %s is a surprise', (_what, text) => {
  expect(parseBindReply('current', xid, hex(text))).toMatchObject({ kind: 'surprise' });
});

test('a reply that comes one byte at a time is read when its last byte has come', () => {
  const whole = hex(`8000006c ${replyHead} 00000003 ${partition} 00000005 12c00000 00000001 00000001`);

  for (let bytes = 0; bytes < whole.length; bytes++)
    expect(parseBindReply('current', xid, whole.subarray(0, bytes))).toBeNull();
  expect(parseBindReply('current', xid, whole)).toMatchObject({ kind: 'ready' });
});

test('whatever bytes come in a record of bearable size, they get a verdict', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 200 }),
      fc.constantFrom('', replyHead, `${replyHead} 00000003`, `${replyHead} 00000000`),
      fc.constantFrom('current' as const, 'former' as const),
      (noise, start, form) => {
        const payload = Buffer.concat([hex(start), noise]);
        const mark = Buffer.alloc(4);
        mark.writeUInt32BE(0x8000_0000 + payload.length);

        const reply = parseBindReply(form, xid, Buffer.concat([mark, payload]));

        expect(['ready', 'retry', 'preferred', 'refused', 'unsupported', 'surprise']).toContain(reply?.kind);
      },
    ),
  );
  expect(maxBindReplyBytes).toBeLessThan(64 * 1024);
});
