import { createHash, createPrivateKey, createPublicKey, type KeyObject, sign } from 'node:crypto';
import { promisify } from 'node:util';
import type { asn1 as Asn1 } from 'node-forge';
import asn1 from 'node-forge/lib/asn1.js';
import { AgentError } from '../core/errors.ts';
import { computeSignature } from './signature.ts';

/** Access key that signs a client certificate. Never logged. */
export interface SigningKey {
  accessKeyId: string;
  secretAccessKey: string;
  /** Null or empty for long-lived keys. */
  sessionToken: string | null;
}

/** Everything a client certificate says. */
export interface CertificateContent {
  fileSystemId: string;
  accessPointId: string | null;
  region: string;
  /** Of subject and issuer; cut to 64 characters. */
  commonName: string;
  clientInfo: { source: string; version: string };
  /** Null for a certificate without a signature (no `iam`). */
  signingKey: SigningKey | null;
}

/** A finished certificate. Units: epoch milliseconds. */
export interface Certificate {
  certificatePem: string;
  notBeforeMs: number;
  notAfterMs: number;
}

const beforeMs = 15 * 60_000;
const lifeMs = 3 * 3_600_000;
const efsArc = '1.3.6.1.4.1.4843.7';
const signInThreadPool = promisify(sign);

/**
 * Makes the client certificate of a mount: self-signed, SHA-256 with RSA, valid from 15 minutes ago for 3 hours to come.
 *
 * Deterministic for a given key and instant. Units: `nowMs` epoch milliseconds, cut to whole seconds.
 * Errors: `internal` for a key that is no private RSA key or an empty common name. Source: specification 5.2 to 5.5.
 */
export async function createCertificate(
  content: CertificateContent,
  privateKeyPem: string,
  nowMs: number,
): Promise<Certificate> {
  const atMs = Math.floor(nowMs / 1000) * 1000;
  const life = { notBeforeMs: atMs - beforeMs, notAfterMs: atMs + lifeMs };
  const privateKey = readPrivateKey(privateKeyPem);
  const algorithm = sequence(oid('1.2.840.113549.1.1.11'), asNull());
  const toBeSigned = buildToBeSigned(content, privateKey, algorithm, atMs, life);

  const signature = await signInThreadPool('sha256', encode(toBeSigned), privateKey);

  const der = encode(sequence(toBeSigned, algorithm, bitString(signature)));
  return { certificatePem: formatPem(der), ...life };
}

/**
 * The key hash that stands in the certificate and in the signed request: SHA-1 of the PKCS#1 public key, 20 bytes.
 *
 * Source: specification 5.4.
 */
export function computeKeyHash(publicKey: KeyObject): Buffer {
  return createHash('sha1')
    .update(publicKey.export({ type: 'pkcs1', format: 'der' }))
    .digest();
}

/**
 * An instant as DER: UTCTime up to 2049, GeneralizedTime from 2050, always in UTC.
 *
 * Units: epoch milliseconds, cut to whole seconds. Errors: none between 1950 and 9999. Source: RFC 5280 section 4.1.2.5.
 */
export function encodeTime(atMs: number): Asn1.Asn1 {
  const text = `${new Date(atMs).toISOString().slice(0, 19).replaceAll(/[-T:]/g, '')}Z`;
  return atMs < Date.UTC(2050, 0)
    ? primitive(asn1.Type.UTCTIME, text.slice(2))
    : primitive(asn1.Type.GENERALIZEDTIME, text);
}

/** The DER bytes of a structure. */
export function encode(structure: Asn1.Asn1): Buffer {
  return Buffer.from(asn1.toDer(structure).getBytes(), 'latin1');
}

function buildToBeSigned(
  content: CertificateContent,
  privateKey: KeyObject,
  algorithm: Asn1.Asn1,
  atMs: number,
  life: { notBeforeMs: number; notAfterMs: number },
): Asn1.Asn1 {
  const publicKey = createPublicKey(privateKey);
  const name = encodeName(content.commonName);
  const version3 = primitive(asn1.Type.INTEGER, asn1.integerToDer(2).getBytes());
  const serial0 = primitive(asn1.Type.INTEGER, asn1.integerToDer(0).getBytes());
  return sequence(
    tagged(0, version3),
    serial0,
    algorithm,
    name,
    sequence(encodeTime(life.notBeforeMs), encodeTime(life.notAfterMs)),
    name,
    sequence(
      sequence(oid('1.2.840.113549.1.1.1'), asNull()),
      bitString(publicKey.export({ type: 'pkcs1', format: 'der' })),
    ),
    tagged(3, sequence(...buildExtensions(content, computeKeyHash(publicKey), atMs))),
  );
}

function buildExtensions(content: CertificateContent, keyHash: Buffer, atMs: number): Asn1.Asn1[] {
  const { accessPointId, clientInfo, fileSystemId, signingKey } = content;
  return [
    extension('2.5.29.14', octetString(keyHash)),
    ...(accessPointId ? [extension(`${efsArc}.1`, utf8(accessPointId))] : []),
    ...(signingKey ? [extension(`${efsArc}.2`, encodeProof(content, signingKey, keyHash, atMs))] : []),
    extension(`${efsArc}.3`, utf8(fileSystemId)),
    extension(`${efsArc}.4`, sequence(utf8(clientInfo.source), utf8(clientInfo.version))),
  ];
}

function encodeProof(
  content: CertificateContent,
  { accessKeyId, secretAccessKey, sessionToken }: SigningKey,
  keyHash: Buffer,
  atMs: number,
): Asn1.Asn1 {
  const { fileSystemId, region } = content;
  const publicKeyHash = keyHash.toString('hex');
  const signature = computeSignature(
    { fileSystemId, region, publicKeyHash, accessKeyId, sessionToken },
    secretAccessKey,
    atMs,
  );
  return sequence(
    utf8(accessKeyId),
    // The service reads the 64 hexadecimal digits as text, not the 32 bytes they stand for.
    octetString(Buffer.from(signature, 'ascii')),
    encodeTime(atMs),
    ...(sessionToken ? [tagged(0, utf8(sessionToken))] : []),
  );
}

function encodeName(commonName: string): Asn1.Asn1 {
  if (commonName === '') throw new AgentError('internal', 'a client certificate needs a common name');
  const cut = Array.from(commonName).slice(0, 64).join('');
  const attribute = sequence(oid('2.5.4.3'), utf8(cut));
  return sequence(asn1.create(asn1.Class.UNIVERSAL, asn1.Type.SET, true, [attribute]));
}

function readPrivateKey(privateKeyPem: string): KeyObject {
  try {
    const key = createPrivateKey(privateKeyPem);
    if (key.asymmetricKeyType === 'rsa') return key;
  } catch {
    // The text of OpenSSL's error is left out: it may quote what it could not read.
  }
  throw new AgentError('internal', 'the key of the client certificate is not a private RSA key');
}

function formatPem(der: Buffer): string {
  const lines = der.toString('base64').match(/.{1,64}/g) ?? [];
  return ['-----BEGIN CERTIFICATE-----', ...lines, '-----END CERTIFICATE-----', ''].join('\n');
}

function sequence(...parts: Asn1.Asn1[]): Asn1.Asn1 {
  return asn1.create(asn1.Class.UNIVERSAL, asn1.Type.SEQUENCE, true, parts);
}

function tagged(tag: number, inner: Asn1.Asn1): Asn1.Asn1 {
  return asn1.create(asn1.Class.CONTEXT_SPECIFIC, tag, true, [inner]);
}

function extension(id: string, value: Asn1.Asn1): Asn1.Asn1 {
  return sequence(oid(id), octetString(encode(value)));
}

function oid(dotted: string): Asn1.Asn1 {
  return primitive(asn1.Type.OID, asn1.oidToDer(dotted).getBytes());
}

function asNull(): Asn1.Asn1 {
  return primitive(asn1.Type.NULL, '');
}

function octetString(bytes: Buffer): Asn1.Asn1 {
  return primitive(asn1.Type.OCTETSTRING, bytes.toString('latin1'));
}

function bitString(bytes: Buffer): Asn1.Asn1 {
  return primitive(asn1.Type.BITSTRING, `\0${bytes.toString('latin1')}`);
}

function utf8(text: string): Asn1.Asn1 {
  return primitive(asn1.Type.UTF8, Buffer.from(text, 'utf8').toString('latin1'));
}

/** Forge holds bytes as strings of the code points 0 to 255. */
function primitive(type: Asn1.Type, bytes: string): Asn1.Asn1 {
  return asn1.create(asn1.Class.UNIVERSAL, type, false, bytes);
}
