import {
  createPrivateKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
  sign,
  X509Certificate,
} from 'node:crypto';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as asn1 from 'asn1js';

/** What the TLS listener presents, and what its clients must trust. */
export interface ServerIdentity {
  /** PEM file with the certificate authority, for `stunnel_cafile` or `cafile`. */
  caFile: string;
  certificatePem: string;
  privateKeyPem: string;
}

const oids = {
  ecdsaWithSha256: '1.2.840.10045.4.3.2',
  commonName: '2.5.4.3',
  basicConstraints: '2.5.29.19',
  keyUsage: '2.5.29.15',
  extendedKeyUsage: '2.5.29.37',
  subjectAltName: '2.5.29.17',
  serverAuth: '1.3.6.1.5.5.7.3.1',
} as const;

const dayMs = 86_400_000;
const caName = 'efs-agent target CA';

/**
 * Makes a server certificate for `*.efs.<region>.<suffix>` from the certificate authority in the state
 * directory; the authority is made at the first start and kept, so that clients need to learn it once.
 *
 * Source: RFC 5280; the names a real mount target presents: specification of the tunnel, 2.2.
 */
export function openServerIdentity(
  stateDirectory: string,
  region: string,
  dnsSuffix: string,
  nowMs: number,
): ServerIdentity {
  const caFile = join(stateDirectory, 'ca.pem');
  const keyFile = join(stateDirectory, 'ca-key.pem');
  const ca = readAuthority(caFile, keyFile, nowMs) ?? makeAuthority(caFile, keyFile, nowMs);
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const name = `*.efs.${region}.${dnsSuffix}`;
  const certificatePem = makeCertificate({
    subject: name,
    publicKey,
    issuerKey: ca,
    nowMs,
    lifeMs: 365 * dayMs,
    extensions: [
      extension(oids.basicConstraints, true, new asn1.Sequence()),
      extension(
        oids.extendedKeyUsage,
        false,
        sequence(new asn1.ObjectIdentifier({ value: oids.serverAuth })),
      ),
      extension(
        oids.subjectAltName,
        false,
        sequence(new asn1.Primitive({ idBlock: { tagClass: 3, tagNumber: 2 }, valueHex: Buffer.from(name) })),
      ),
    ],
  });
  return {
    caFile,
    certificatePem,
    privateKeyPem: privateKey.export({ type: 'pkcs8', format: 'pem' }).toString(),
  };
}

/** The authority's key, if the directory holds a key and a certificate that fit together and last a while. */
function readAuthority(caFile: string, keyFile: string, nowMs: number): KeyObject | null {
  try {
    const certificate = new X509Certificate(readFileSync(caFile));
    const key = createPrivateKey(readFileSync(keyFile));
    const isCurrent = Date.parse(certificate.validTo) > nowMs + 365 * dayMs;
    return isCurrent && certificate.checkPrivateKey(key) ? key : null;
  } catch {
    return null;
  }
}

function makeAuthority(caFile: string, keyFile: string, nowMs: number): KeyObject {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const certificatePem = makeCertificate({
    subject: caName,
    publicKey,
    issuerKey: privateKey,
    nowMs,
    lifeMs: 3_650 * dayMs,
    extensions: [
      extension(oids.basicConstraints, true, sequence(new asn1.Boolean({ value: true }))),
      // keyCertSign and cRLSign: bits 5 and 6.
      extension(oids.keyUsage, true, new asn1.BitString({ valueHex: Uint8Array.of(0x06), unusedBits: 1 })),
    ],
  });
  writeFileSync(keyFile, privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });
  writeFileSync(caFile, certificatePem);
  chmodSync(caFile, 0o644);
  return privateKey;
}

function makeCertificate(wanted: {
  subject: string;
  publicKey: KeyObject;
  issuerKey: KeyObject;
  nowMs: number;
  lifeMs: number;
  extensions: asn1.Sequence[];
}): string {
  const algorithm = sequence(new asn1.ObjectIdentifier({ value: oids.ecdsaWithSha256 }));
  // A positive integer of fixed length: the first byte has no sign bit and is not zero.
  const serial = randomBytes(16);
  serial[0] = 0x40 | (serial[0]! & 0x3f);
  const tbs = sequence(
    new asn1.Constructed({ idBlock: { tagClass: 3, tagNumber: 0 }, value: [new asn1.Integer({ value: 2 })] }),
    new asn1.Integer({ valueHex: serial }),
    algorithm,
    nameOf(caName),
    // An hour in the past: the clock of a virtual machine may be behind.
    sequence(timeOf(wanted.nowMs - 3_600_000), timeOf(wanted.nowMs + wanted.lifeMs)),
    nameOf(wanted.subject),
    asn1.fromBER(Uint8Array.from(wanted.publicKey.export({ type: 'spki', format: 'der' }))).result,
    new asn1.Constructed({ idBlock: { tagClass: 3, tagNumber: 3 }, value: [sequence(...wanted.extensions)] }),
  );
  const signature = sign('sha256', Buffer.from(tbs.toBER()), wanted.issuerKey);
  const der = Buffer.from(sequence(tbs, algorithm, new asn1.BitString({ valueHex: signature })).toBER());
  return `${new X509Certificate(der).toString().trim()}\n`;
}

function sequence(...value: asn1.AsnType[]): asn1.Sequence {
  return new asn1.Sequence({ value });
}

function nameOf(commonName: string): asn1.Sequence {
  const attribute = sequence(
    new asn1.ObjectIdentifier({ value: oids.commonName }),
    new asn1.Utf8String({ value: commonName }),
  );
  return sequence(new asn1.Set({ value: [attribute] }));
}

function timeOf(instantMs: number): asn1.UTCTime {
  const valueDate = new Date(instantMs);
  return valueDate.getUTCFullYear() < 2050
    ? new asn1.UTCTime({ valueDate })
    : new asn1.GeneralizedTime({ valueDate });
}

function extension(oid: string, critical: boolean, value: asn1.AsnType): asn1.Sequence {
  return sequence(
    new asn1.ObjectIdentifier({ value: oid }),
    ...(critical ? [new asn1.Boolean({ value: true })] : []),
    new asn1.OctetString({ valueHex: value.toBER() }),
  );
}
