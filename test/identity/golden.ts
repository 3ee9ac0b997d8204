import { createPrivateKey } from 'node:crypto';
import { readFileSync } from 'node:fs';

const folder = new URL('../golden/', import.meta.url);

/** The worked example of specification 5.7. */
export const golden = JSON.parse(readFileSync(new URL('certificate.json', folder), 'utf8')) as {
  input: {
    accessKeyId: string;
    secretAccessKey: string;
    sessionToken: string;
    fileSystemId: string;
    accessPointId: string;
    region: string;
    at: string;
    commonName: string;
    clientInfo: { source: string; version: string };
  };
  publicKeyPem: string;
  publicKeyHash: string;
  canonicalRequest: string[];
  stringToSign: string[];
  keys: { date: string; region: string; service: string; signing: string };
  signature: string;
  extensions: Record<string, string>;
  name: string;
  certificateSha256: string;
  certificateBytes: number;
  withoutToken: { accessKeyId: string; canonicalRequestSha256: string; signature: string; extension: string };
};

export const goldenCertificatePem = readFileSync(new URL('certificate.pem', folder), 'utf8');

export const goldenAtMs = Date.parse(golden.input.at);

export const goldenKeyPem = createPrivateKey({
  key: JSON.parse(readFileSync(new URL('example-key.jwk.json', folder), 'utf8')),
  format: 'jwk',
})
  .export({ type: 'pkcs8', format: 'pem' })
  .toString();
