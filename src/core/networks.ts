import type { LocalNetwork } from './endpoint.ts';

const isUp = 0x1;
const hasGateway = 0x2;
const linkLocal = '20';

/**
 * Reads `/proc/net/route`: the IPv4 networks that this machine reaches without a gateway.
 *
 * Errors: none; lines that are no such route are passed over. Source: the kernel's fib_trie.c: addresses as the machine
 * keeps a 32-bit word.
 */
export function parseRoutes(text: string, endianness: 'LE' | 'BE'): LocalNetwork[] {
  return text.split('\n').flatMap((line) => {
    const [, destination, , flags, , , , mask] = line.split('\t');
    if (!/^[0-9A-F]{8}$/.test(destination ?? '') || !/^[0-9A-F]{8}$/.test(mask ?? '')) return [];
    const kind = Number.parseInt(flags ?? '', 16);
    const prefixBits = bitsOf(mask!).replaceAll('0', '').length;
    if ((kind & isUp) === 0 || (kind & hasGateway) !== 0 || prefixBits === 0) return [];
    const octets = destination!.match(/../g)!.map((octet) => Number.parseInt(octet, 16));
    return [{ address: (endianness === 'LE' ? octets.reverse() : octets).join('.'), prefixBits }];
  });
}

/** Reads `/proc/net/if_inet6`: the IPv6 networks of this machine's interfaces, without loopback and link-local ones. */
export function parseIpv6Addresses(text: string): LocalNetwork[] {
  return text.split('\n').flatMap((line) => {
    const [address, , prefix, scope, , name] = line.trim().split(/ +/);
    if (!/^[0-9a-f]{32}$/.test(address ?? '') || name === 'lo' || scope === linkLocal) return [];
    return [{ address: address!.match(/..../g)!.join(':'), prefixBits: Number.parseInt(prefix ?? '', 16) }];
  });
}

function bitsOf(hex: string): string {
  return Number.parseInt(hex, 16).toString(2);
}
