import { createHash, createHmac, timingSafeEqual, X509Certificate } from 'node:crypto';
import * as asn1 from 'asn1js';
import type { Principal } from './policy.ts';

/** Credentials as they were handed out, looked up by their access key id. */
export interface KnownCredentials {
  accessKeyId: string;
  secretAccessKey: string;
  /** Null for long-lived keys. */
  sessionToken: string | null;
  /** Epoch milliseconds; null for long-lived keys. */
  expiresAtMs: number | null;
  principal: Principal;
}

/** What the certificate says, apart from who signed it. */
export interface CertificateClaims {
  fileSystemId: string;
  accessPointId: string | null;
  /** Source and version, in this order; empty without the extension. */
  clientInfo: readonly string[];
}

/** The answer to "whose certificate is this": the signer's, nobody's, or one that must be refused. */
export type CertificateVerdict =
  | { kind: 'signed'; accessKeyId: string; principal: Principal; claims: CertificateClaims }
  | { kind: 'unsigned'; claims: CertificateClaims }
  | { kind: 'refused'; reason: RefusalReason; detail: string };

export type RefusalReason =
  | 'certificate-malformed'
  | 'self-signature-invalid'
  | 'key-hash-mismatch'
  | 'extension-malformed'
  | 'not-yet-valid'
  | 'expired'
  | 'signature-time-invalid'
  | 'access-key-unknown'
  | 'credentials-expired'
  | 'session-token-missing'
  | 'session-token-mismatch'
  | 'signature-mismatch';

export interface CheckContext {
  region: string;
  /** Epoch milliseconds. */
  nowMs: number;
  findCredentials: (accessKeyId: string) => KnownCredentials | undefined;
}

const oids = {
  sha256WithRsa: '1.2.840.113549.1.1.11',
  subjectKeyIdentifier: '2.5.29.14',
  accessPoint: '1.3.6.1.4.1.4843.7.1',
  signature: '1.3.6.1.4.1.4843.7.2',
  fileSystem: '1.3.6.1.4.1.4843.7.3',
  clientInfo: '1.3.6.1.4.1.4843.7.4',
} as const;

const signatureLifeMs = 86_400_000;
/** How far a signer's clock may be ahead, as for every SigV4 request. */
const signatureSkewMs = 15 * 60_000;

/**
 * Checks a client certificate as the mount target must: the certificate's own signature, its life, the
 * key hash, the shape of every extension and, if there is one, the SigV4 signature by a known secret.
 *
 * Which file systems and access points exist is the caller's to know.
 * Errors: none; whatever is wrong is a `refused` verdict. Source: specification 5.2-5.5.
 */
export function checkClientCertificate(der: Uint8Array, context: CheckContext): CertificateVerdict {
  try {
    return check(der, context);
  } catch (thrown) {
    if (thrown instanceof Refusal) return { kind: 'refused', reason: thrown.reason, detail: thrown.message };
    throw thrown;
  }
}

class Refusal extends Error {
  readonly reason: RefusalReason;

  constructor(reason: RefusalReason, detail: string) {
    super(detail);
    this.reason = reason;
  }
}

interface SignatureExtension {
  accessKeyId: string;
  signatureHex: string;
  signedAtMs: number;
  sessionToken: string | null;
}

interface Extensions {
  keyIdentifier: Uint8Array;
  accessPointId: string | null;
  fileSystemId: string;
  signature: SignatureExtension | null;
  clientInfo: string[];
}

function check(der: Uint8Array, context: CheckContext): CertificateVerdict {
  const certificate = parseCertificate(der);
  const keyHash = checkSelfSignature(der, certificate.signatureAlgorithms);
  const extensions = parseExtensions(certificate.extensions);
  if (!Buffer.from(extensions.keyIdentifier).equals(keyHash)) {
    throw new Refusal('key-hash-mismatch', 'the subject key identifier is not the SHA-1 of the public key');
  }
  if (context.nowMs < certificate.notBeforeMs)
    throw new Refusal('not-yet-valid', 'the certificate is not valid yet');
  if (context.nowMs > certificate.notAfterMs) throw new Refusal('expired', 'the certificate has expired');

  const { fileSystemId, accessPointId, clientInfo, signature } = extensions;
  const claims = { fileSystemId, accessPointId, clientInfo };
  if (signature === null) return { kind: 'unsigned', claims };
  const credentials = checkSignature(signature, keyHash.toString('hex'), fileSystemId, context);
  return { kind: 'signed', accessKeyId: credentials.accessKeyId, principal: credentials.principal, claims };
}

function parseCertificate(der: Uint8Array) {
  const malformed = (what: string) => new Refusal('certificate-malformed', what);
  const outer = childrenOf(parseDer(der, malformed), asn1.Sequence, malformed);
  const [tbs, outerAlgorithm, signatureValue, ...more] = outer;
  if (!(signatureValue instanceof asn1.BitString) || more.length > 0) throw malformed('not a certificate');
  const [version, serial, innerAlgorithm, issuer, validity, subject, , extensionBlock, ...rest] = childrenOf(
    tbs,
    asn1.Sequence,
    malformed,
  );
  const isV3 = hexOf(version) === 'a003020102';
  if (!isV3 || !(serial instanceof asn1.Integer) || rest.length > 0)
    throw malformed('not an X.509 version 3 certificate');
  if (hexOf(issuer) !== hexOf(subject)) throw malformed('issuer and subject differ');
  const [notBefore, notAfter] = childrenOf(validity, asn1.Sequence, malformed);
  const [extensions] = isContext(extensionBlock, 3) ? extensionBlock.valueBlock.value : [];
  return {
    signatureAlgorithms: [algorithmOf(innerAlgorithm, malformed), algorithmOf(outerAlgorithm, malformed)],
    notBeforeMs: parseTime(notBefore, malformed),
    notAfterMs: parseTime(notAfter, malformed),
    extensions: childrenOf(extensions, asn1.Sequence, malformed),
  };
}

function checkSelfSignature(der: Uint8Array, algorithms: string[]): Buffer {
  if (algorithms.some((oid) => oid !== oids.sha256WithRsa)) {
    throw new Refusal('self-signature-invalid', 'the certificate is not signed with SHA-256 and RSA');
  }
  try {
    const certificate = new X509Certificate(der);
    const publicKey = certificate.publicKey;
    if (publicKey.asymmetricKeyType === 'rsa' && certificate.verify(publicKey)) {
      return createHash('sha1')
        .update(publicKey.export({ type: 'pkcs1', format: 'der' }))
        .digest();
    }
  } catch (thrown) {
    throw new Refusal('certificate-malformed', thrown instanceof Error ? thrown.message : String(thrown));
  }
  throw new Refusal('self-signature-invalid', 'the certificate is not signed by its own RSA key');
}

function parseExtensions(blocks: asn1.AsnType[]): Extensions {
  const values = new Map<string, Uint8Array>();
  for (const block of blocks) {
    const [oid, value, ...more] = childrenOf(block, asn1.Sequence, malformedExtension('list'));
    if (!(oid instanceof asn1.ObjectIdentifier) || !(value instanceof asn1.OctetString) || more.length > 0) {
      throw malformedExtension('list')('an extension is critical, or not an identifier and an octet string');
    }
    const name = oid.getValue();
    if (values.has(name)) throw malformedExtension(name)('it occurs twice');
    values.set(name, bytesOf(value));
  }
  const parse = <T>(oid: string, parser: (element: asn1.AsnType, malformed: Malformed) => T): T | null => {
    const value = values.get(oid);
    const malformed = malformedExtension(oid);
    return value === undefined ? null : parser(parseDer(value, malformed), malformed);
  };
  const keyIdentifier = parse(oids.subjectKeyIdentifier, octetsOf);
  const fileSystemId = parse(oids.fileSystem, textOf);
  const accessPointId = parse(oids.accessPoint, textOf);
  if (keyIdentifier === null) throw malformedExtension(oids.subjectKeyIdentifier)('it is missing');
  if (fileSystemId === null || !/^fs-[0-9a-f]+$/.test(fileSystemId)) {
    throw malformedExtension(oids.fileSystem)('it does not hold a file system id');
  }
  if (accessPointId !== null && !/^fsap-[0-9a-f]{17}$/.test(accessPointId)) {
    throw malformedExtension(oids.accessPoint)('it does not hold an access point id');
  }
  return {
    keyIdentifier,
    fileSystemId,
    accessPointId,
    signature: parse(oids.signature, parseSignatureExtension),
    // The reference's watchdog puts one space before each text (specification 5.3).
    clientInfo:
      parse(oids.clientInfo, (element, malformed) =>
        childrenOf(element, asn1.Sequence, malformed).map((one) => textOf(one, malformed).replace(/^ /, '')),
      ) ?? [],
  };
}

function parseSignatureExtension(element: asn1.AsnType, malformed: Malformed): SignatureExtension {
  const [accessKeyId, signature, signedAt, tagged, ...more] = childrenOf(element, asn1.Sequence, malformed);
  const signatureHex = Buffer.from(octetsOf(signature, malformed)).toString('latin1');
  if (!/^[0-9a-f]{64}$/.test(signatureHex))
    throw malformed('the signature is not 64 lower-case hexadecimal characters');
  if (!(signedAt instanceof asn1.UTCTime) || signedAt instanceof asn1.GeneralizedTime)
    throw malformed('the signing time is not a UTCTime');
  let sessionToken: string | null = null;
  if (tagged !== undefined) {
    const [inner, ...others] = isContext(tagged, 0) ? tagged.valueBlock.value : [];
    sessionToken = textOf(inner, malformed);
    if (sessionToken === '' || others.length > 0)
      throw malformed('the session token is empty or more than one');
  }
  if (more.length > 0) throw malformed('it has more than four parts');
  return {
    accessKeyId: textOf(accessKeyId, malformed),
    signatureHex,
    signedAtMs: parseTime(signedAt, malformed),
    sessionToken,
  };
}

function checkSignature(
  signature: SignatureExtension,
  keyHashHex: string,
  fileSystemId: string,
  context: CheckContext,
): KnownCredentials {
  const ageMs = context.nowMs - signature.signedAtMs;
  if (ageMs > signatureLifeMs || ageMs < -signatureSkewMs) {
    throw new Refusal('signature-time-invalid', 'the signing time is not within the last 24 hours');
  }
  const credentials = context.findCredentials(signature.accessKeyId);
  if (credentials === undefined) throw new Refusal('access-key-unknown', 'no such access key was handed out');
  if (credentials.expiresAtMs !== null && context.nowMs > credentials.expiresAtMs) {
    throw new Refusal('credentials-expired', 'the credentials of this access key have expired');
  }
  if (credentials.sessionToken !== null && signature.sessionToken === null) {
    throw new Refusal(
      'session-token-missing',
      'the credentials have a session token, the certificate has none',
    );
  }
  if (!sameSecret(credentials.sessionToken ?? '', signature.sessionToken ?? '')) {
    throw new Refusal('session-token-mismatch', 'the session token is not the one of this access key');
  }
  const expected = expectedSignature(
    signature,
    credentials.secretAccessKey,
    keyHashHex,
    fileSystemId,
    context.region,
  );
  if (!sameSecret(expected, signature.signatureHex)) {
    throw new Refusal(
      'signature-mismatch',
      'the signature is not by this access key over this key, file system and region',
    );
  }
  return credentials;
}

/** Source: specification 5.5; note that no blank line follows the header. */
function expectedSignature(
  signature: SignatureExtension,
  secretAccessKey: string,
  keyHashHex: string,
  fileSystemId: string,
  region: string,
): string {
  const instant = new Date(signature.signedAtMs).toISOString().replace(/[-:]|\.\d+/g, '');
  const scope = [instant.slice(0, 8), region, 'elasticfilesystem', 'aws4_request'];
  const query = [
    'Action=Connect',
    `PublicKeyHash=${keyHashHex}`,
    'X-Amz-Algorithm=AWS4-HMAC-SHA256',
    `X-Amz-Credential=${percentEncode([signature.accessKeyId, ...scope].join('/'))}`,
    `X-Amz-Date=${instant}`,
    'X-Amz-Expires=86400',
    ...(signature.sessionToken === null
      ? []
      : [`X-Amz-Security-Token=${percentEncode(signature.sessionToken)}`]),
    'X-Amz-SignedHeaders=host',
  ];
  const canonicalRequest = ['GET', '/', query.join('&'), `host:${fileSystemId}`, 'host', sha256Hex('')].join(
    '\n',
  );
  const toSign = ['AWS4-HMAC-SHA256', instant, scope.join('/'), sha256Hex(canonicalRequest)].join('\n');
  const signingKey = scope.reduce<Buffer>(
    (key, part) => hmac(key, part),
    Buffer.from(`AWS4${secretAccessKey}`),
  );
  return hmac(signingKey, toSign).toString('hex');
}

function percentEncode(text: string): string {
  return Array.from(Buffer.from(text), (byte) => {
    const character = String.fromCharCode(byte);
    if (character === ' ') return '+';
    return /[A-Za-z0-9_.~-]/.test(character)
      ? character
      : `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  }).join('');
}

function sha256Hex(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

function hmac(key: Buffer, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest();
}

function sameSecret(one: string, other: string): boolean {
  return timingSafeEqual(Buffer.from(sha256Hex(one)), Buffer.from(sha256Hex(other)));
}

type Malformed = (what: string) => Refusal;

function malformedExtension(oid: string): Malformed {
  return (what) => new Refusal('extension-malformed', `extension ${oid}: ${what}`);
}

function parseDer(bytes: Uint8Array, malformed: Malformed): asn1.AsnType {
  try {
    const parsed = asn1.fromBER(Uint8Array.from(bytes));
    if (parsed.offset === bytes.length) return parsed.result;
  } catch (thrown) {
    throw malformed(thrown instanceof Error ? thrown.message : String(thrown));
  }
  throw malformed('it is not one DER value');
}

function childrenOf(
  element: asn1.AsnType | undefined,
  type: typeof asn1.Sequence,
  malformed: Malformed,
): asn1.AsnType[] {
  if (!(element instanceof type)) throw malformed('a sequence is missing');
  return element.valueBlock.value;
}

function isContext(element: asn1.AsnType | undefined, tag: number): element is asn1.Constructed {
  return (
    element instanceof asn1.Constructed && element.idBlock.tagClass === 3 && element.idBlock.tagNumber === tag
  );
}

function textOf(element: asn1.AsnType | undefined, malformed: Malformed): string {
  if (!(element instanceof asn1.Utf8String)) throw malformed('a UTF8String is missing');
  return element.getValue();
}

function octetsOf(element: asn1.AsnType | undefined, malformed: Malformed): Uint8Array {
  if (!(element instanceof asn1.OctetString)) throw malformed('an OCTET STRING is missing');
  return bytesOf(element);
}

function bytesOf(element: asn1.OctetString): Uint8Array {
  return element.valueBlock.valueHexView;
}

function hexOf(element: asn1.AsnType | undefined): string {
  return Buffer.from(element?.valueBeforeDecodeView ?? []).toString('hex');
}

function algorithmOf(element: asn1.AsnType | undefined, malformed: Malformed): string {
  const [oid] = childrenOf(element, asn1.Sequence, malformed);
  if (!(oid instanceof asn1.ObjectIdentifier)) throw malformed('a signature algorithm is missing');
  return oid.getValue();
}

/** Epoch milliseconds of a DER UTCTime or GeneralizedTime. Source: RFC 5280 section 4.1.2.5. */
function parseTime(element: asn1.AsnType | undefined, malformed: Malformed): number {
  if (!(element instanceof asn1.UTCTime)) throw malformed('a time is missing');
  // Read from the bytes: the library would also take the other BER spellings of a time.
  const text = Buffer.from(element.valueBeforeDecodeView.subarray(2)).toString('latin1');
  const digits = element instanceof asn1.GeneralizedTime ? text : `${text < '5' ? '20' : '19'}${text}`;
  const parts = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(digits);
  const instant =
    parts === null
      ? Number.NaN
      : Date.parse(`${parts[1]}-${parts[2]}-${parts[3]}T${parts[4]}:${parts[5]}:${parts[6]}Z`);
  if (Number.isNaN(instant)) throw malformed('a time is not in the form of DER');
  return instant;
}
