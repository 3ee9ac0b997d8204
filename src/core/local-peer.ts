/** The process, or the kernel itself, on the other end of a loopback connection, as `/proc/net/tcp` tells. */
export interface SocketOwner {
  /** Whose rights the socket was made with; 0 = root, or the kernel. */
  uid: number;
  /** False for a socket that its process has closed: the kernel then counts it as root's. */
  held: boolean;
}

/** Who besides root may use a tunnel. */
export type LocalUsers =
  | { readonly kind: 'any' }
  | { readonly kind: 'listed'; readonly names: readonly string[] };

/** One end of a TCP connection: an IPv4 address and a port. */
export interface SocketAddress {
  address: string;
  port: number;
}

/**
 * How `/proc/net/tcp` writes the addresses of a socket that is bound to `own` and connected to `other`; and, for
 * `tcp6`, those of an IPv6 socket with mapped addresses, which reaches an IPv4 listener as well.
 *
 * Errors: none; an address that is not IPv4 gives a key that no line has. Source: proc_pid_net(5): each 32-bit word
 * as the machine keeps it.
 */
export function formatSocketKeys(
  own: SocketAddress,
  other: SocketAddress,
  endianness: 'LE' | 'BE',
): { tcp: string; tcp6: string } {
  const mapped = `${'0'.repeat(16)}${endianness === 'LE' ? 'FFFF0000' : '0000FFFF'}`;
  const join = (prefix: string) =>
    [own, other]
      .map((end) => `${prefix}${formatWord(end.address, endianness)}:${formatHex(end.port, 4)}`)
      .join(' ');
  return { tcp: join(''), tcp6: join(mapped) };
}

/**
 * Reads a line of `/proc/net/tcp` or `tcp6`: the two addresses as they stand there, and the rest only when asked for.
 *
 * Errors: none; null for the heading and for whatever else is no socket.
 */
export function parseSocketLine(line: string): {
  key: string;
  readOwner(): SocketOwner | null;
  /** Bytes that were sent, or wait for it, and that the other side has not acknowledged. */
  readUnacknowledged(): number | null;
} | null {
  const start = line.indexOf(': ') + 2;
  const middle = line.indexOf(' ', start);
  const end = line.indexOf(' ', middle + 1);
  if (start < 2 || middle < 0 || end < 0) return null;
  return {
    key: line.slice(start, end),
    readUnacknowledged() {
      const bytes = /^[0-9A-F]{2} ([0-9A-F]{8}):/.exec(line.slice(end + 1))?.[1];
      return bytes === undefined ? null : Number.parseInt(bytes, 16);
    },
    readOwner() {
      // st, queues, timer, retransmissions, uid, timeout, inode
      const [, , , , uid, , inode] = line
        .slice(end + 1)
        .trim()
        .split(/ +/);
      if (!/^\d{1,10}$/.test(uid ?? '') || !/^\d{1,20}$/.test(inode ?? '')) return null;
      return { uid: Number(uid), held: inode !== '0' };
    },
  };
}

/**
 * Whether the owner of the other end may use a tunnel. A socket that nobody holds any more is refused: whoever had it
 * could send requests, close it, and leave it to the kernel, which calls such sockets root's.
 *
 * Source: measured, docs/decisions/0023.
 */
export function mayUseTunnel(owner: SocketOwner | null, allowedUids: ReadonlySet<number>): boolean {
  return owner?.held === true && allowedUids.has(owner.uid);
}

function formatWord(address: string, endianness: 'LE' | 'BE'): string {
  const bytes = address.split('.').map((part) => formatHex(Number(part), 2));
  return (endianness === 'LE' ? bytes.reverse() : bytes).join('');
}

function formatHex(value: number, digits: number): string {
  return value.toString(16).toUpperCase().padStart(digits, '0');
}
