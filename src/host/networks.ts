import { readFileSync } from 'node:fs';
import { endianness } from 'node:os';
import type { LocalNetwork } from '../core/endpoint.ts';
import { parseIpv6Addresses, parseRoutes } from '../core/networks.ts';

/**
 * The networks this machine is in, without the loopback, as the kernel's tables tell: the service may open no netlink
 * socket, which `os.networkInterfaces` needs.
 *
 * Errors: none; without a table there is no network.
 */
export function readNetworks(): LocalNetwork[] {
  return [
    ...parseRoutes(readTable('/proc/self/net/route'), endianness()),
    ...parseIpv6Addresses(readTable('/proc/self/net/if_inet6')),
  ];
}

function readTable(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
