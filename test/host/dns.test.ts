import { expect, test } from 'vitest';
import { resolveCanonicalName, resolveName } from '../../src/host/dns.ts';

test('a name of /etc/hosts resolves without any name server', async () => {
  const addresses = await resolveName('localhost');

  expect(addresses.length).toBeGreaterThan(0);
  for (const address of addresses) expect(['127.0.0.1', '::1']).toContain(address);
});

test('an address is its own answer', async () => {
  expect(await resolveName('127.0.0.11')).toEqual(['127.0.0.11']);
});

test('a name that cannot be resolved is an error of the table that names it', async () => {
  // `.invalid` never exists: RFC 6761 section 6.4. Without any name server the answer is dns.failed.
  const error = await resolveName('fs-0123456789abcdef0.invalid').catch((thrown: unknown) => thrown);

  expect(error).toMatchObject({ details: { name: 'fs-0123456789abcdef0.invalid' } });
  expect(['dns.not-found', 'dns.failed']).toContain((error as { code: string }).code);
});

test('a name without an alias is its own canonical name', async () => {
  expect(await resolveCanonicalName('no-alias.invalid')).toBe('no-alias.invalid');
});
