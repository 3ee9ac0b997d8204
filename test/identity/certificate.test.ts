import { createHash, createPublicKey, generateKeyPairSync, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import tls from 'node:tls';
import fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import {
  type CertificateContent,
  computeKeyHash,
  createCertificate,
  encode,
  encodeTime,
} from '../../src/identity/certificate.ts';
import { golden, goldenAtMs, goldenCertificatePem, goldenKeyPem } from './golden.ts';

const { input } = golden;
const content: CertificateContent = {
  fileSystemId: input.fileSystemId,
  accessPointId: input.accessPointId,
  region: input.region,
  commonName: input.commonName,
  clientInfo: input.clientInfo,
  signingKey: input,
};

async function createDer(changed: Partial<CertificateContent>, atMs = goldenAtMs): Promise<Buffer> {
  const { certificatePem } = await createCertificate({ ...content, ...changed }, goldenKeyPem, atMs);
  return new X509Certificate(certificatePem).raw;
}

test('the certificate of the worked example equals the reference byte for byte', async () => {
  const made = await createCertificate(content, goldenKeyPem, goldenAtMs);

  expect(made.certificatePem).toBe(goldenCertificatePem);
  const der = new X509Certificate(made.certificatePem).raw;
  expect(der).toHaveLength(golden.certificateBytes);
  expect(createHash('sha256').update(der).digest('hex')).toBe(golden.certificateSha256);
  expect(new Date(made.notBeforeMs).toISOString()).toBe('2024-05-06T06:53:09.000Z');
  expect(new Date(made.notAfterMs).toISOString()).toBe('2024-05-06T10:08:09.000Z');
});

test('name, extensions and key hash of the worked example are equal', async () => {
  const der = (await createDer({})).toString('hex');

  expect(der).toContain(golden.name);
  expect(der).toContain(Object.values(golden.extensions).join(''));
  expect(computeKeyHash(createPublicKey(golden.publicKeyPem)).toString('hex')).toBe(golden.publicKeyHash);
});

test.each([null, ''])(
  'long-lived keys give an extension without a token (token %j)',
  async (sessionToken) => {
    const { accessKeyId, extension } = golden.withoutToken;
    const signingKey = { accessKeyId, secretAccessKey: input.secretAccessKey, sessionToken };

    const der = (await createDer({ accessPointId: null, signingKey })).toString('hex');

    expect(der).toContain(
      golden.extensions['2.5.29.14']! +
        extension +
        golden.extensions['1.3.6.1.4.1.4843.7.3']! +
        golden.extensions['1.3.6.1.4.1.4843.7.4']!,
    );
  },
);

test('without credentials the certificate says key hash, access point, file system and client only', async () => {
  const der = (await createDer({ signingKey: null })).toString('hex');

  const { ['1.3.6.1.4.1.4843.7.2']: proof, ...others } = golden.extensions;
  expect(der).toContain(Object.values(others).join(''));
  expect(der).not.toContain(proof);
});

test('a dollar sign, back-tick, quote, blank or hash in token and client source is kept as given', async () => {
  const odd = '$HOME `id` "x" \'y\' \\ # tail ';
  const signingKey = { ...input, sessionToken: odd };

  const der = await createDer({ signingKey, clientInfo: { source: odd, version: '1' } });

  expect(der.toString('latin1').split(odd)).toHaveLength(3);
});

test('a common name longer than 64 characters is cut to 64', async () => {
  const pem = (await createCertificate({ ...content, commonName: 'ä'.repeat(70) }, goldenKeyPem, goldenAtMs))
    .certificatePem;

  expect(new X509Certificate(pem).subject).toBe(`CN=${'ä'.repeat(64)}`);
});

test('validity that crosses into 2050 has one UTCTime and one GeneralizedTime', async () => {
  const pem = (await createCertificate(content, goldenKeyPem, Date.UTC(2049, 11, 31, 23))).certificatePem;

  const made = new X509Certificate(pem);
  expect(Date.parse(made.validFrom)).toBe(Date.UTC(2049, 11, 31, 22, 45));
  expect(Date.parse(made.validTo)).toBe(Date.UTC(2050, 0, 1, 2));
});

test.each([
  ['an empty common name', { ...content, commonName: '' }, goldenKeyPem],
  ['a key that is no key', content, 'PRIVATE no key'],
  [
    'a key of another kind',
    content,
    generateKeyPairSync('ed25519').privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
  ],
])('%s is refused with one error that does not show the key', async (_, wrong, keyPem) => {
  const failed = createCertificate(wrong, keyPem, goldenAtMs);

  await expect(failed).rejects.toMatchObject({
    code: 'internal',
    message: expect.not.stringContaining('PRIVATE'),
  });
});

test('any content gives a certificate that OpenSSL reads and that its own key verifies', async () => {
  const text = fc.string({ unit: 'grapheme-composite', minLength: 1, maxLength: 300 });
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        fileSystemId: text,
        accessPointId: fc.option(text),
        region: text,
        commonName: text.filter((name) => !name.includes('\0')),
        clientInfo: fc.record({ source: fc.string({ unit: 'grapheme' }), version: text }),
        signingKey: fc.option(
          fc.record({
            accessKeyId: text,
            secretAccessKey: text,
            sessionToken: fc.option(fc.string({ maxLength: 3000 })),
          }),
        ),
      }),
      fc.date({ min: new Date(Date.UTC(1970, 1)), max: new Date(Date.UTC(2200, 0)), noInvalidDate: true }),
      async (any, now) => {
        const made = await createCertificate(any, goldenKeyPem, now.getTime());

        const parsed = new X509Certificate(made.certificatePem);
        expect(parsed.verify(parsed.publicKey)).toBe(true);
        expect(parsed.serialNumber).toMatch(/^0+$/);
        expect(Date.parse(parsed.validFrom)).toBe(made.notBeforeMs);
        expect(Date.parse(parsed.validTo)).toBe(made.notAfterMs);
        expect(made.notAfterMs - made.notBeforeMs).toBe(195 * 60_000);
        const { signingKey } = any;
        if (signingKey?.sessionToken)
          expect(parsed.raw.includes(Buffer.from(signingKey.sessionToken))).toBe(true);
      },
    ),
    { numRuns: 60 },
  );
});

test('an instant is written as UTCTime before 2050 and as GeneralizedTime after, and reads back', () => {
  fc.assert(
    fc.property(
      fc.date({ min: new Date(0), max: new Date(Date.UTC(9999, 11, 31)), noInvalidDate: true }),
      (date) => {
        const der = encode(encodeTime(date.getTime()));

        const isGeneralized = date.getUTCFullYear() >= 2050;
        expect(der[0]).toBe(isGeneralized ? 24 : 23);
        expect(der).toHaveLength(isGeneralized ? 17 : 15);
        const digits = der.subarray(2).toString('ascii');
        const year = isGeneralized
          ? Number(digits.slice(0, 4))
          : Number(digits.slice(0, 2)) + (digits < '50' ? 2000 : 1900);
        const [month, day, hour, minute, second] = digits
          .slice(isGeneralized ? 4 : 2, -1)
          .match(/../g)!
          .map(Number);
        expect(Date.UTC(year, month! - 1, day, hour, minute, second)).toBe(
          Math.floor(date.getTime() / 1000) * 1000,
        );
      },
    ),
  );
});

test('a TLS server that asks for a client certificate gets it and its proof of possession', async () => {
  const made = await createCertificate(content, goldenKeyPem, Date.now());
  const server = tls.createServer({
    key: goldenKeyPem,
    cert: made.certificatePem,
    requestCert: true,
    rejectUnauthorized: true,
    ca: made.certificatePem,
  });
  onTestFinished(() => void server.close());
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const accepted = once(server, 'secureConnection') as Promise<[tls.TLSSocket]>;

  const client = tls.connect({
    host: '127.0.0.1',
    port: (server.address() as AddressInfo).port,
    key: goldenKeyPem,
    cert: made.certificatePem,
    ca: made.certificatePem,
    checkServerIdentity: () => undefined,
  });
  onTestFinished(() => void client.destroy());

  const [socket] = await accepted;
  expect(socket.authorized).toBe(true);
  expect(socket.getPeerX509Certificate()?.fingerprint256).toBe(
    new X509Certificate(made.certificatePem).fingerprint256,
  );
});
