import { statSync } from 'node:fs';
import { expect, test } from 'vitest';
import { identifyNetworkNamespace, readForeignNetworkNamespace } from '../../src/host/network-namespace.ts';

test('a network namespace is known by its number', () => {
  expect(identifyNetworkNamespace('/proc/self/ns/net')).toBe(statSync('/proc/self/ns/net').ino);
});

test('a network namespace that is not there is named in the error', () => {
  expect(() => identifyNetworkNamespace('/no/such')).toThrow(
    expect.objectContaining({
      code: 'namespace.unusable',
      message: 'cannot use the network namespace /no/such: ENOENT',
    }),
  );
});

test('a process in the namespace of process 1 is in no foreign one', () => {
  const own = statSync('/proc/self/ns/net').ino;

  expect([null, own]).toContain(readForeignNetworkNamespace());
});
