import { isIP } from 'node:net';
import { expect, test } from 'vitest';
import { readNetworks } from '../../src/host/networks.ts';

test('the networks of this machine are addresses with the length of their prefix, without the loopback', () => {
  for (const { address, prefixBits } of readNetworks()) {
    expect(isIP(address)).not.toBe(0);
    expect(prefixBits).toBeGreaterThan(0);
    expect(prefixBits).toBeLessThanOrEqual(128);
    expect(address).not.toMatch(/^127\.|^::1$/);
  }
});
