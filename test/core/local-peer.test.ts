import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatSocketKeys, mayUseTunnel, parseSocketLine } from '../../src/core/local-peer.ts';

// From a 6.1 kernel with an NFS mount on 127.0.0.1:20093 (0x4E7D): the kernel's own client, a program of `nobody`, the
// same after that program has ended, and one that connected through an IPv6 socket.
const heading =
  '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     ';
const kernel =
  '   2: 0100007F:8A26 0100007F:4E7D 01 00000000:00000000 02:00000776 00000000     0        0 16477 2 00000000458d5284 21 4 14 10 -1                    ';
const nobody =
  '   5: 0100007F:8A32 0100007F:4E7D 01 00000000:00000000 00:00000000 00000000 65534        0 17740 2 0000000092021ad4 20 0 0 10 -1                     ';
const orphan =
  '   5: 0100007F:8A32 0100007F:4E7D 05 00000000:00000000 03:00001767 00000000     0        0 0 3 00000000361ddd0b                                      ';
const mapped =
  '   0: 0000000000000000FFFF00000100007F:82D0 0000000000000000FFFF00000100007F:4E7D 01 00000000:00000000 00:00000000 00000000 65534        0 17761 2 000000008fc4a7bd 20 0 0 10 -1';

const root = new Set([0]);
const tunnel = { address: '127.0.0.1', port: 20_093 };

test("the kernel's own NFS client may use a tunnel, a user's program may not", () => {
  const { tcp } = formatSocketKeys({ address: '127.0.0.1', port: 35_366 }, tunnel, 'LE');

  expect(parseSocketLine(kernel)?.key).toBe(tcp);
  expect(mayUseTunnel(parseSocketLine(kernel)!.readOwner(), root)).toBe(true);
  expect(parseSocketLine(nobody)!.readOwner()).toEqual({ uid: 65_534, held: true });
  expect(mayUseTunnel(parseSocketLine(nobody)!.readOwner(), root)).toBe(false);
  expect(mayUseTunnel(parseSocketLine(nobody)!.readOwner(), new Set([0, 65_534]))).toBe(true);
});

test('a socket that its program has closed is nobody’s, although the kernel counts it as root’s', () => {
  const owner = parseSocketLine(orphan)!.readOwner();

  expect(owner).toEqual({ uid: 0, held: false });
  expect(mayUseTunnel(owner, root)).toBe(false);
  expect(mayUseTunnel(null, root)).toBe(false);
});

test('an IPv6 socket that reaches the IPv4 listener is found in the table of IPv6 sockets', () => {
  const { tcp6 } = formatSocketKeys({ address: '127.0.0.1', port: 33_488 }, tunnel, 'LE');

  expect(parseSocketLine(mapped)?.key).toBe(tcp6);
  expect(parseSocketLine(mapped)?.readOwner()).toEqual({ uid: 65_534, held: true });
});

test('a machine that keeps the high byte first is asked in its own way', () => {
  expect(
    formatSocketKeys({ address: '127.0.0.5', port: 1 }, { address: '127.0.0.1', port: 2_049 }, 'BE'),
  ).toEqual({
    tcp: '7F000005:0001 7F000001:0801',
    tcp6: '00000000000000000000FFFF7F000005:0001 00000000000000000000FFFF7F000001:0801',
  });
});

test('a heading and lines of any other shape are no sockets, and never an error', () => {
  expect(parseSocketLine(heading)).toBeNull();
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.constantFrom(kernel, orphan, mapped)), fc.nat(160), (line, cut) => {
      const owner = parseSocketLine(line.slice(0, cut))?.readOwner() ?? null;
      if (owner !== null) expect(Number.isSafeInteger(owner.uid)).toBe(true);
    }),
  );
});

test('every address and port is found again in the line that the kernel writes for it', () => {
  const end = fc.record({ address: fc.ipV4(), port: fc.integer({ min: 1, max: 65_535 }) });
  fc.assert(
    fc.property(end, end, fc.nat(), fc.nat(4_294_967_295), (own, other, line, uid) => {
      const hex = (value: number, digits: number) => value.toString(16).toUpperCase().padStart(digits, '0');
      const write = ({ address, port }: typeof own) => {
        const octets = address.split('.').map(Number);
        return `${hex(octets[0]! + octets[1]! * 2 ** 8 + octets[2]! * 2 ** 16 + octets[3]! * 2 ** 24, 8)}:${hex(port, 4)}`;
      };
      const text = `${String(line).padStart(4)}: ${write(own)} ${write(other)} 01 00000000:00000000 00:00000000 00000000 ${String(uid).padStart(5)}        0 7 1 0`;

      expect(parseSocketLine(text)?.key).toBe(formatSocketKeys(own, other, 'LE').tcp);
      expect(parseSocketLine(text)?.readOwner()).toEqual({ uid, held: true });
    }),
  );
});
