import { formatSocketKeys, parseSocketLine, type SocketAddress } from './local-peer.ts';

/**
 * Finds in `/proc/net/tcp` or `/proc/net/tcp6` how many bytes of a connection the kernel keeps because the other side has not
 * acknowledged them.
 *
 * Units: bytes. Errors: none; null when it is not there, or when two may be meant: of IPv6 only the ports are compared.
 * Source: proc_pid_net(5), `tx_queue`.
 */
export function findUnacknowledgedBytes(
  text: string,
  own: SocketAddress,
  other: SocketAddress,
  endianness: 'LE' | 'BE',
): number | null {
  const { tcp } = formatSocketKeys(own, other, endianness);
  const ports = [own, other].map(({ port }) => `:${port.toString(16).toUpperCase().padStart(4, '0')}`);
  const isMeant = own.address.includes(':')
    ? (key: string) => key.split(' ').every((end, at) => end.endsWith(ports[at]!))
    : (key: string) => key === tcp;
  const found = text.split('\n').flatMap((line) => {
    const socket = parseSocketLine(line);
    return socket !== null && isMeant(socket.key) ? [socket.readUnacknowledged()] : [];
  });
  return found.length === 1 ? found[0]! : null;
}
