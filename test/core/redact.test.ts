import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createRedactor, findSecretValues, redactValue } from '../../src/core/redact.ts';

const redact = createRedactor(['wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY']);

test.each([
  ['a known secret', 'it is wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY here', 'it is [removed] here'],
  ['a known secret in a URL', 'x=wJalrXUtnFEMI%2FK7MDENG%2BbPxRfiCYEXAMPLEKEY', 'x=[removed]'],
  [
    'a secret of somebody else, by its name',
    'aws_secret_access_key = abc123',
    'aws_secret_access_key = [removed]',
  ],
  ['the same in JSON', '{"SecretAccessKey":"abc123","x":1}', '{"SecretAccessKey":"[removed]","x":1}'],
  ['a password in a URL', 'http://me:pass@proxy:3128/', 'http://[removed]@proxy:3128/'],
  ['a signed URL', 'GET /?X-Amz-Signature=abcdef&a=b', 'GET /?X-Amz-Signature=[removed]&a=b'],
  ['an Authorization header', 'authorization: AWS4-HMAC-SHA256 Cred\nnext', 'authorization: [removed]\nnext'],
  ['a web token', 'got eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl!', 'got [removed]!'],
  ['a key', 'a -----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY----- b', 'a [removed] b'],
  ['half a key', 'a -----BEGIN PRIVATE KEY-----\nMII', 'a [removed]'],
  ['forty characters that are a key', 'q AbCdEfGhIjKlMnOpQrStUvWxYz0123456789abcd q', 'q [removed] q'],
])('%s is taken out', (_name, text, clean) => {
  expect(redact(text)).toBe(clean);
});

test.each([
  'fs-0123456789abcdef0.efs.us-east-1.amazonaws.com is 10.1.1.6',
  'arn:aws:sts::111122223333:assumed-role/efs-client/i-0123456789abcdef0 from metadata:efs-client',
  '/usr/lib/x86_64-linux-gnu/ganesha/libfsalvfs.so',
  'da39a3ee5e6b4b0d3255bfef95601890afd80709',
])('%s is no secret and stays', (text) => {
  expect(redact(text)).toBe(text);
});

test('a known secret is in no text any more, wherever it stood and however it was written', () => {
  const secret = fc.string({ unit: fc.constantFrom(...'abcXYZ+/=&?%"\\ é'), minLength: 8, maxLength: 60 });
  const around = fc.string({ unit: fc.constantFrom(...'0123456789,;:\n()') });
  const spelling = fc.constantFrom(
    (text: string) => text,
    encodeURIComponent,
    (text: string) => JSON.stringify(text).slice(1, -1),
    (text: string) => Buffer.from(text).toString('base64'),
  );
  fc.assert(
    fc.property(secret, around, around, spelling, (known, before, after, spell) => {
      const text = createRedactor([known])(`${before}${spell(known)}${after}`);

      expect(text).not.toContain(spell(known));
      expect(text).toContain('[removed]');
    }),
  );
});

test('fields that are secret by their name lose their value; what they belong to stays JSON', () => {
  const value = {
    accessKeyId: 'AKIAEXAMPLE',
    secretAccessKey: 'x',
    deep: [{ sessionToken: 'y', port: 1, none: null }],
  };

  expect(redactValue(value, redact)).toEqual({
    accessKeyId: 'AKIAEXAMPLE',
    secretAccessKey: '[removed]',
    deep: [{ sessionToken: '[removed]', port: 1, none: null }],
  });
});

test('the secrets of a credentials file are found, its ids are not', () => {
  const text =
    '[default]\naws_access_key_id = AKIA\naws_secret_access_key=s3cret/+=\n  aws_session_token: tok en \n';

  expect(findSecretValues(text)).toEqual(['s3cret/+=', 'tok en']);
});
