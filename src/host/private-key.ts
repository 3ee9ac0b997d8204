import { generateKeyPair } from 'node:crypto';
import { promisify } from 'node:util';

/** The private key of client certificates, PKCS#8 PEM; made in the thread pool. Source: specification 5.1. */
export async function generatePrivateKey(): Promise<string> {
  const { privateKey } = await promisify(generateKeyPair)('rsa', {
    modulusLength: 3072,
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  });
  return privateKey;
}
