import { createHash, createHmac } from 'node:crypto';

/** What the signature of a client certificate covers, apart from the secret. */
export interface ConnectRequest {
  fileSystemId: string;
  region: string;
  /** SHA-1 of the certificate's public key, 40 lower-case hexadecimal digits (specification 5.4). */
  publicKeyHash: string;
  accessKeyId: string;
  /** Null or empty for long-lived keys. */
  sessionToken: string | null;
}

const service = 'elasticfilesystem';
const algorithm = 'AWS4-HMAC-SHA256';
const signedForSeconds = 86_400;

/**
 * Signs a Connect request with a secret access key; 64 lower-case hexadecimal digits.
 *
 * Units: `atMs` epoch milliseconds, cut to whole seconds. Errors: none. Source: specification 5.5.
 */
export function computeSignature(request: ConnectRequest, secretAccessKey: string, atMs: number): string {
  const toSign = formatStringToSign(formatCanonicalRequest(request, atMs), request.region, atMs);
  return signString(toSign, deriveSigningKeys(secretAccessKey, request.region, atMs).signing);
}

/**
 * The canonical request: six lines, and unlike standard SigV4 no blank line after the header block.
 *
 * Units: `atMs` epoch milliseconds. Errors: none. Source: specification 5.5.
 */
export function formatCanonicalRequest(request: ConnectRequest, atMs: number): string {
  const credential = `${request.accessKeyId}/${formatScope(request.region, atMs)}`;
  const query = [
    'Action=Connect',
    `PublicKeyHash=${request.publicKeyHash}`,
    `X-Amz-Algorithm=${algorithm}`,
    `X-Amz-Credential=${percentEncode(credential)}`,
    `X-Amz-Date=${formatDateTime(atMs)}`,
    `X-Amz-Expires=${signedForSeconds}`,
    ...(request.sessionToken ? [`X-Amz-Security-Token=${percentEncode(request.sessionToken)}`] : []),
    'X-Amz-SignedHeaders=host',
  ].join('&');
  return ['GET', '/', query, `host:${request.fileSystemId}`, 'host', sha256Hex('')].join('\n');
}

/** The four lines that are signed. Units: `atMs` epoch milliseconds. Errors: none. Source: specification 5.5. */
export function formatStringToSign(canonicalRequest: string, region: string, atMs: number): string {
  return [algorithm, formatDateTime(atMs), formatScope(region, atMs), sha256Hex(canonicalRequest)].join('\n');
}

/** The chain of SigV4 keys; `signing` is the last. Units: `atMs` epoch milliseconds. Source: specification 5.5. */
export function deriveSigningKeys(secretAccessKey: string, region: string, atMs: number) {
  const ofDate = hmac(`AWS4${secretAccessKey}`, formatDateTime(atMs).slice(0, 8));
  const ofRegion = hmac(ofDate, region);
  const ofService = hmac(ofRegion, service);
  return { ofDate, ofRegion, ofService, signing: hmac(ofService, 'aws4_request') };
}

/** The signature of a string to sign, 64 lower-case hexadecimal digits. Source: specification 5.5. */
export function signString(toSign: string, signingKey: Uint8Array): string {
  return hmac(signingKey, toSign).toString('hex');
}

/**
 * Percent-encodes every byte of the UTF-8 text except letters, digits and `_ . - ~`; a space becomes `+`.
 *
 * Errors: none, whatever the text. Source: specification 5.5.
 */
export function percentEncode(text: string): string {
  let encoded = '';
  for (const byte of Buffer.from(text, 'utf8')) {
    const character = String.fromCharCode(byte);
    if (/[A-Za-z0-9_.~-]/.test(character)) encoded += character;
    else if (character === ' ') encoded += '+';
    else encoded += `%${byte.toString(16).toUpperCase().padStart(2, '0')}`;
  }
  return encoded;
}

function formatScope(region: string, atMs: number): string {
  return `${formatDateTime(atMs).slice(0, 8)}/${region}/${service}/aws4_request`;
}

/** `yyyymmddTHHMMSSZ` in UTC. */
function formatDateTime(atMs: number): string {
  return `${new Date(atMs).toISOString().slice(0, 19).replaceAll(/[-:]/g, '')}Z`;
}

function sha256Hex(text: string): string {
  return createHash('sha256').update(text, 'utf8').digest('hex');
}

function hmac(key: string | Uint8Array, text: string): Buffer {
  return createHmac('sha256', key).update(text, 'utf8').digest();
}
