import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { checkClientCertificate, type KnownCredentials } from '../../src/target/client-certificate.ts';
import { example, extension, makeCertificate, type Recipe, recipe, utf8 } from './make-certificate.ts';

/** The certificate of specification 5.7, computed by the reference. */
const goldenDer = new X509Certificate(readFileSync(new URL('../golden/certificate.pem', import.meta.url)))
  .raw;

const known: KnownCredentials = {
  accessKeyId: example.accessKeyId,
  secretAccessKey: example.secretAccessKey,
  sessionToken: example.sessionToken,
  expiresAtMs: example.nowMs + 48 * 3_600_000,
  principal: {
    kind: 'assumed-role',
    accountId: '111122223333',
    sessionArn: 'arn:aws:sts::111122223333:assumed-role/efs-client/i-0123456789abcdef0',
    roleArn: 'arn:aws:iam::111122223333:role/efs-client',
  },
};

function check(
  der: Uint8Array,
  context: { nowMs?: number; region?: string; credentials?: KnownCredentials } = {},
) {
  const credentials = context.credentials ?? known;
  return checkClientCertificate(der, {
    region: context.region ?? example.region,
    nowMs: context.nowMs ?? example.nowMs,
    findCredentials: (id) => (id === credentials.accessKeyId ? credentials : undefined),
  });
}

function reasonFor(der: Uint8Array, context: Parameters<typeof check>[1] = {}) {
  const verdict = check(der, context);
  return verdict.kind === 'refused' ? verdict.reason : verdict.kind;
}

const minute = 60_000;
const hour = 60 * minute;
const day = 24 * hour;

describe('a certificate is accepted', () => {
  test('when it is the one that the reference computes, at its own time', () => {
    expect(check(goldenDer)).toEqual({
      kind: 'signed',
      accessKeyId: example.accessKeyId,
      principal: known.principal,
      claims: {
        fileSystemId: example.fileSystemId,
        accessPointId: example.accessPointId,
        clientInfo: ['unknown', '3.2.0'],
      },
    });
  });

  test('and the certificate maker of these tests makes that same certificate, byte for byte', () => {
    expect(makeCertificate(recipe()).toString('hex')).toBe(goldenDer.toString('hex'));
  });

  test('without a session token, when the access key is a long-lived one', () => {
    const credentials = {
      ...known,
      accessKeyId: 'AKIAEXAMPLEKEYID1234',
      sessionToken: null,
      expiresAtMs: null,
    };
    const signature = { ...recipe().signature!, accessKeyId: credentials.accessKeyId, sessionToken: null };

    expect(reasonFor(makeCertificate(recipe({ signature })), { credentials })).toBe('signed');
  });

  test('as nobody\u2019s, when it carries no signature', () => {
    const verdict = check(
      makeCertificate(recipe({ signature: null, accessPointId: null, clientInfo: null })),
    );

    expect(verdict).toEqual({
      kind: 'unsigned',
      claims: { fileSystemId: example.fileSystemId, accessPointId: null, clientInfo: [] },
    });
  });

  test('with the client info of a renewal by the reference, which has a space before each text', () => {
    const verdict = check(makeCertificate(recipe({ clientInfo: [' unknown', ' 3.2.0'] })));

    expect(verdict).toMatchObject({ kind: 'signed', claims: { clientInfo: ['unknown', '3.2.0'] } });
  });

  test('when its validity runs past 2049 and is written as the reference writes it', () => {
    const signedAtMs = Date.UTC(2049, 11, 31, 20);

    expect(
      reasonFor(makeCertificate(recipe({ signedAtMs })), {
        nowMs: signedAtMs,
        credentials: { ...known, expiresAtMs: null },
      }),
    ).toBe('signed');
  });

  test('from its first second to its last', () => {
    for (const nowMs of [example.nowMs - 15 * minute, example.nowMs + 3 * hour])
      expect(reasonFor(goldenDer, { nowMs })).toBe('signed');
  });
});

const by = (changes: Partial<NonNullable<Recipe['signature']>>): Partial<Recipe> => ({
  signature: { ...recipe().signature!, ...changes },
});

describe('a certificate is refused', () => {
  const refusals: [
    title: string,
    changes: Partial<Recipe>,
    context: Parameters<typeof check>[1],
    reason: string,
  ][] = [
    ['one second before it is valid', {}, { nowMs: example.nowMs - 15 * minute - 1_000 }, 'not-yet-valid'],
    ['one second after it has expired', {}, { nowMs: example.nowMs + 3 * hour + 1_000 }, 'expired'],
    ['when it was signed with another secret', by({ secretAccessKey: 'other' }), {}, 'signature-mismatch'],
    ['when it was signed for another region', by({ region: 'us-east-2' }), {}, 'signature-mismatch'],
    ['when the mount target stands in another region', {}, { region: 'eu-west-1' }, 'signature-mismatch'],
    [
      'when it was signed for another file system',
      by({ host: 'fs-00000000000000000' }),
      {},
      'signature-mismatch',
    ],
    [
      'when it was signed for the DNS name',
      by({ host: `${example.fileSystemId}.efs.us-east-1.amazonaws.com` }),
      {},
      'signature-mismatch',
    ],
    [
      'when nobody was given its access key',
      by({ accessKeyId: 'ASIAUNKNOWNKEYID1234' }),
      {},
      'access-key-unknown',
    ],
    ['when its session token is missing', by({ sessionToken: null }), {}, 'session-token-missing'],
    ['when its session token is another one', by({ sessionToken: 'another' }), {}, 'session-token-mismatch'],
    ['when its session token is an empty text', by({ sessionToken: '' }), {}, 'extension-malformed'],
    [
      'when the credentials have expired',
      {},
      { credentials: { ...known, expiresAtMs: example.nowMs - 1 } },
      'credentials-expired',
    ],
    [
      'when the signature is 32 raw bytes',
      { signatureOctets: (hex) => Buffer.from(hex, 'hex') },
      {},
      'extension-malformed',
    ],
    [
      'when the signature is in capitals',
      { signatureOctets: (hex) => Buffer.from(hex.toUpperCase()) },
      {},
      'extension-malformed',
    ],
    [
      'when the signature is 24 hours old',
      { notAfterMs: example.nowMs + 30 * day },
      { nowMs: example.nowMs + day + 1_000 },
      'signature-time-invalid',
    ],
    [
      'when it was signed in the future',
      { notBeforeMs: example.nowMs - day },
      { nowMs: example.nowMs - hour },
      'signature-time-invalid',
    ],
    [
      'when its key identifier is of another key',
      { keyIdentifier: () => Buffer.alloc(20) },
      {},
      'key-hash-mismatch',
    ],
    ['when its file system is no file system id', { fileSystemId: 'fs-XYZ' }, {}, 'extension-malformed'],
    ['when its access point is no access point id', { accessPointId: 'fsap-1' }, {}, 'extension-malformed'],
    [
      'when an extension occurs twice',
      { extraExtensions: [extension('2b06010401a56b0703', utf8(example.fileSystemId))] },
      {},
      'extension-malformed',
    ],
    [
      'when an extension holds two values',
      { extraExtensions: [extension('551d0e', utf8('a'), utf8('b'))] },
      {},
      'extension-malformed',
    ],
  ];

  test.each(refusals)('%s', (_title, changes, context, reason) => {
    expect(reasonFor(makeCertificate(recipe(changes)), context)).toBe(reason);
  });

  test('when it is not a certificate at all', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(reasonFor(bytes)).toBe('certificate-malformed');
      }),
    );
  });

  test('after any one bit of its extensions is flipped', () => {
    const start = goldenDer.indexOf(Buffer.from('0603551d0e', 'hex'));
    const end = goldenDer.indexOf('3.2.0') + 5;
    const accepted: number[] = [];

    for (let bit = 8 * start; bit < 8 * end; bit++) {
      const changed = Buffer.from(goldenDer);
      changed[bit >> 3]! ^= 1 << (bit & 7);
      if (check(changed).kind !== 'refused') accepted.push(bit);
    }

    expect(end - start).toBeGreaterThan(300);
    expect(accepted).toEqual([]);
  }, 60_000);

  test('after any byte of it is changed, and never with an exception', () => {
    fc.assert(
      fc.property(fc.nat(goldenDer.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
        const changed = Buffer.from(goldenDer);
        changed[at]! ^= change;
        expect(check(changed).kind).toBe('refused');
      }),
    );
  });
});
