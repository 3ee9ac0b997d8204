import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseIpv6Addresses, parseRoutes } from '../../src/core/networks.ts';

// From an EC2 instance: a default route, its own subnet, a host route to the metadata service through the gateway.
const routes = `Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT                                                       
eth0\t00000000\t01011F0A\t0003\t0\t0\t512\t00000000\t0\t0\t0                                                                               
eth0\t00101F0A\t00000000\t0001\t0\t0\t512\t00F0FFFF\t0\t0\t0                                                                             
eth0\tFEA9FEA9\t01101F0A\t0007\t0\t0\t512\tFFFFFFFF\t0\t0\t0                                                                             
eth1\t0000000A\t00000000\t0000\t0\t0\t0\t000000FF\t0\t0\t0                                                                             
`;

const addresses = `fe80000000000000089a6afffe12ab34 02 40 20 80     eth0
20010db8000000010000000000000017 02 80 00 80     eth0
20010db8000000020000000000000017 03 40 00 80     eth1
00000000000000000000000000000001 01 80 10 80       lo
`;

test('the subnets that need no gateway are the networks of the machine', () => {
  expect(parseRoutes(routes, 'LE')).toEqual([{ address: '10.31.16.0', prefixBits: 20 }]);
  expect(parseRoutes('eth0\t0A1F1000\t00000000\t0001\t0\t0\t0\tFFFFF000\t0\t0\t0\n', 'BE')).toEqual([
    { address: '10.31.16.0', prefixBits: 20 },
  ]);
});

test('IPv6 networks are those of the interfaces, but not the loopback and link-local ones', () => {
  expect(parseIpv6Addresses(addresses)).toEqual([
    { address: '2001:0db8:0000:0001:0000:0000:0000:0017', prefixBits: 128 },
    { address: '2001:0db8:0000:0002:0000:0000:0000:0017', prefixBits: 64 },
  ]);
});

test('tables of any other shape give no network, and never an error', () => {
  fc.assert(
    fc.property(fc.string(), fc.nat(400), (text, cut) => {
      parseRoutes(text, 'LE');
      parseIpv6Addresses(text);
      for (const { prefixBits } of [
        ...parseRoutes(routes.slice(cut), 'LE'),
        ...parseIpv6Addresses(addresses.slice(cut)),
      ])
        expect(Number.isInteger(prefixBits)).toBe(true);
    }),
  );
});
