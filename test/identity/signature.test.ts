import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  type ConnectRequest,
  computeSignature,
  deriveSigningKeys,
  formatCanonicalRequest,
  formatStringToSign,
  percentEncode,
  signString,
} from '../../src/identity/signature.ts';
import { golden, goldenAtMs } from './golden.ts';

const { input } = golden;
const request: ConnectRequest = {
  fileSystemId: input.fileSystemId,
  region: input.region,
  publicKeyHash: golden.publicKeyHash,
  accessKeyId: input.accessKeyId,
  sessionToken: input.sessionToken,
};

test('the canonical request of the worked example has its six lines and no blank line', () => {
  expect(formatCanonicalRequest(request, goldenAtMs).split('\n')).toEqual(golden.canonicalRequest);
});

test('the string to sign of the worked example is equal', () => {
  const toSign = formatStringToSign(golden.canonicalRequest.join('\n'), input.region, goldenAtMs);

  expect(toSign.split('\n')).toEqual(golden.stringToSign);
});

test('the four derived keys of the worked example are equal', () => {
  const keys = deriveSigningKeys(input.secretAccessKey, input.region, goldenAtMs);

  expect(keys.ofDate.toString('hex')).toBe(golden.keys.date);
  expect(keys.ofRegion.toString('hex')).toBe(golden.keys.region);
  expect(keys.ofService.toString('hex')).toBe(golden.keys.service);
  expect(keys.signing.toString('hex')).toBe(golden.keys.signing);
});

test('the signature of the worked example is equal', () => {
  expect(computeSignature(request, input.secretAccessKey, goldenAtMs)).toBe(golden.signature);
});

test.each([null, ''])('long-lived keys sign without a security token (token %j)', (sessionToken) => {
  const longLived = { ...request, accessKeyId: golden.withoutToken.accessKeyId, sessionToken };

  const canonical = formatCanonicalRequest(longLived, goldenAtMs);

  expect(canonical).not.toContain('X-Amz-Security-Token');
  expect(createHash('sha256').update(canonical).digest('hex')).toBe(
    golden.withoutToken.canonicalRequestSha256,
  );
  expect(computeSignature(longLived, input.secretAccessKey, goldenAtMs)).toBe(golden.withoutToken.signature);
});

test('the values the reference pins in its own tests are equal', () => {
  const noon2000Ms = Date.UTC(2000, 0, 1, 12);

  const toSign = formatStringToSign('canonical_request', 'us-east-1', noon2000Ms);
  const { signing } = deriveSigningKeys('FAKE_AWS_SECRET_ACCESS_KEY', 'us-east-1', noon2000Ms);

  expect(toSign.split('\n')).toEqual([
    'AWS4-HMAC-SHA256',
    '20000101T120000Z',
    '20000101/us-east-1/elasticfilesystem/aws4_request',
    '572b1e335109068b81e4def81524c5fe5d0e385143b5656cbf2f7c88e5c1a51e',
  ]);
  expect(signString('string_to_sign', signing)).toBe(
    '6aa643803d4a1b07c5ac87bff96347ef28dab1cb5a5c5d63969c90ca11454c4a',
  );
});

test('percent-encoding leaves only unreserved characters and can be undone, whatever the text', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const encoded = percentEncode(text);

      expect(encoded).toMatch(/^(?:[A-Za-z0-9_.~+-]|%[0-9A-F]{2})*$/);
      expect(decodeURIComponent(encoded.replaceAll('+', ' '))).toBe(text);
    }),
  );
});

test('percent-encoding gives some answer for text that is no valid Unicode', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 0xffff })), (units) => {
      expect(percentEncode(String.fromCharCode(...units))).toMatch(/^[\w.~+%-]*$/);
    }),
  );
});

test('the canonical request keeps six lines, sorted parameters and the token, whatever the token', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: 'binary', minLength: 1 }),
      fc.date({ min: new Date(0), max: new Date(Date.UTC(2100, 0)), noInvalidDate: true }),
      (sessionToken, date) => {
        const lines = formatCanonicalRequest({ ...request, sessionToken }, date.getTime()).split('\n');

        expect(lines).toHaveLength(6);
        const pairs = lines[2]!.split('&').map((pair) => pair.split('=') as [string, string]);
        const names = pairs.map(([name]) => name);
        expect(names).toEqual(names.toSorted());
        const token = new Map(pairs).get('X-Amz-Security-Token')!;
        expect(decodeURIComponent(token.replaceAll('+', ' '))).toBe(sessionToken);
      },
    ),
  );
});
