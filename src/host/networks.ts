import { networkInterfaces } from 'node:os';
import type { LocalNetwork } from '../core/endpoint.ts';

/** The networks this machine has an address in, without the loopback. Errors: none. */
export function readNetworks(): LocalNetwork[] {
  return Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .filter(({ internal, cidr }) => !internal && cidr !== null)
    .map(({ address, cidr }) => ({ address, prefixBits: Number(cidr!.split('/')[1]) }));
}
