import { createHash, createHmac, createPrivateKey, createPublicKey, type KeyObject, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';

/**
 * Client certificates as an agent makes them, put together byte by byte from the specification, 5.2-5.5:
 * the checker is tested against neither itself nor the program whose certificates it checks.
 */

/** The example of specification 5.7. */
export const example = {
  nowMs: Date.UTC(2024, 4, 6, 7, 8, 9),
  region: 'us-east-1',
  fileSystemId: 'fs-0123456789abcdef0',
  accessPointId: 'fsap-0123456789abcdef0',
  accessKeyId: 'ASIAEXAMPLEKEYID1234',
  secretAccessKey: 'ExampleSecretKey/NotReal+0123456789abcdefgh',
  sessionToken: 'IQoJexample/Session+Token==~with.odd_chars-1',
  clientInfo: ['unknown', '3.2.0'],
  privateKey: createPrivateKey({
    key: JSON.parse(readFileSync(new URL('../golden/example-key.jwk.json', import.meta.url), 'utf8')),
    format: 'jwk',
  }),
};

export interface Recipe {
  privateKey: KeyObject;
  fileSystemId: string;
  accessPointId: string | null;
  clientInfo: readonly string[] | null;
  signature: {
    accessKeyId: string;
    secretAccessKey: string;
    sessionToken: string | null;
    region: string;
    host: string;
  } | null;
  signedAtMs: number;
  notBeforeMs: number;
  notAfterMs: number;
  /** Changes finished parts, for certificates that nobody should accept. */
  signatureOctets: (hex: string) => Buffer;
  keyIdentifier: (hash: Buffer) => Buffer;
  extraExtensions: Buffer[];
}

export function recipe(changes: Partial<Recipe> = {}): Recipe {
  const signedAtMs = changes.signedAtMs ?? example.nowMs;
  const { accessKeyId, secretAccessKey, sessionToken, region } = example;
  return {
    privateKey: example.privateKey,
    fileSystemId: example.fileSystemId,
    accessPointId: example.accessPointId,
    clientInfo: example.clientInfo,
    signature: {
      accessKeyId,
      secretAccessKey,
      sessionToken,
      region,
      host: changes.fileSystemId ?? example.fileSystemId,
    },
    signedAtMs,
    notBeforeMs: signedAtMs - 15 * 60_000,
    notAfterMs: signedAtMs + 3 * 3_600_000,
    signatureOctets: (hex) => Buffer.from(hex),
    keyIdentifier: (hash) => hash,
    extraExtensions: [],
    ...changes,
  };
}

export function makeCertificate(wanted: Recipe): Buffer {
  const publicKey = createPublicKey(wanted.privateKey);
  const hash = createHash('sha1')
    .update(publicKey.export({ type: 'pkcs1', format: 'der' }))
    .digest();
  const name = tlv(0x30, tlv(0x31, tlv(0x30, oid('550403'), utf8('ip-10-0-0-1.ec2.internal'))));
  const algorithm = tlv(0x30, oid('2a864886f70d01010b'), tlv(0x05));
  const tbs = tlv(
    0x30,
    tlv(0xa0, tlv(0x02, Buffer.of(2))),
    tlv(0x02, Buffer.of(0)),
    algorithm,
    name,
    tlv(0x30, utcTime(wanted.notBeforeMs), utcTime(wanted.notAfterMs)),
    name,
    publicKey.export({ type: 'spki', format: 'der' }),
    tlv(0xa3, tlv(0x30, ...extensionsOf(wanted, hash), ...wanted.extraExtensions)),
  );
  return tlv(0x30, tbs, algorithm, tlv(0x03, Buffer.of(0), sign('sha256', tbs, wanted.privateKey)));
}

export function extension(oidHex: string, ...value: Buffer[]): Buffer {
  return tlv(0x30, oid(oidHex), tlv(0x04, ...value));
}

export function tlv(tag: number, ...content: Buffer[]): Buffer {
  const body = Buffer.concat(content);
  const size = body.length.toString(16).padStart(body.length < 256 ? 2 : 4, '0');
  const header = body.length < 128 ? [body.length] : [0x80 + size.length / 2, ...Buffer.from(size, 'hex')];
  return Buffer.concat([Buffer.of(tag, ...header), body]);
}

export function utf8(text: string): Buffer {
  return tlv(0x0c, Buffer.from(text));
}

function oid(hex: string): Buffer {
  return tlv(0x06, Buffer.from(hex, 'hex'));
}

function utcTime(instantMs: number): Buffer {
  return tlv(0x17, Buffer.from(`${compact(instantMs).slice(2).replace('T', '')}`));
}

function compact(instantMs: number): string {
  return new Date(instantMs).toISOString().replace(/[-:]|\.\d+/g, '');
}

const arc = '2b06010401a56b07';

function extensionsOf(wanted: Recipe, hash: Buffer): Buffer[] {
  const { signature, accessPointId, clientInfo } = wanted;
  return [
    extension('551d0e', tlv(0x04, wanted.keyIdentifier(hash))),
    ...(accessPointId === null ? [] : [extension(`${arc}01`, utf8(accessPointId))]),
    ...(signature === null
      ? []
      : [extension(`${arc}02`, signatureExtension(wanted, signature, hash.toString('hex')))]),
    extension(`${arc}03`, utf8(wanted.fileSystemId)),
    ...(clientInfo === null ? [] : [extension(`${arc}04`, tlv(0x30, ...clientInfo.map(utf8)))]),
  ];
}

function signatureExtension(wanted: Recipe, by: NonNullable<Recipe['signature']>, keyHash: string): Buffer {
  const instant = compact(wanted.signedAtMs);
  const scope = `${instant.slice(0, 8)}/${by.region}/elasticfilesystem/aws4_request`;
  const parameters = new Map([
    ['Action', 'Connect'],
    ['PublicKeyHash', keyHash],
    ['X-Amz-Algorithm', 'AWS4-HMAC-SHA256'],
    ['X-Amz-Credential', encodeURIComponent(`${by.accessKeyId}/${scope}`)],
    ['X-Amz-Date', instant],
    ['X-Amz-Expires', '86400'],
    ...(by.sessionToken === null
      ? []
      : ([['X-Amz-Security-Token', encodeURIComponent(by.sessionToken)]] as const)),
    ['X-Amz-SignedHeaders', 'host'],
  ]);
  const query = [...parameters].map(([key, value]) => `${key}=${value}`).join('&');
  const request = `GET\n/\n${query}\nhost:${by.host}\nhost\n${sha256('')}`;
  let key = Buffer.from(`AWS4${by.secretAccessKey}`);
  for (const part of scope.split('/')) key = createHmac('sha256', key).update(part).digest();
  const toSign = `AWS4-HMAC-SHA256\n${instant}\n${scope}\n${sha256(request)}`;
  const hex = createHmac('sha256', key).update(toSign).digest('hex');
  return tlv(
    0x30,
    utf8(by.accessKeyId),
    tlv(0x04, wanted.signatureOctets(hex)),
    utcTime(wanted.signedAtMs),
    ...(by.sessionToken === null ? [] : [tlv(0xa0, utf8(by.sessionToken))]),
  );
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
