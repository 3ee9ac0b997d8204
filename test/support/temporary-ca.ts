import { generateKeyPairSync } from 'node:crypto';
import forge from 'node-forge';

const hourMs = 3_600_000;

/** A certificate with its private key, as PEM texts. */
export interface TemporaryCertificate {
  certificatePem: string;
  privateKeyPem: string;
}

export interface TemporaryCertificateOptions {
  commonName?: string;
  /** DNS subject alternative names; none when empty. */
  names?: string[];
  notBeforeMs?: number;
  notAfterMs?: number;
  use?: 'server' | 'client';
}

/** A certificate authority that lives in memory for one test file. */
export interface TemporaryCa {
  rootPem: string;
  issue(options: TemporaryCertificateOptions): TemporaryCertificate;
}

/** Makes a certificate authority with its own RSA-2048 key; every certificate it issues shares one other key. */
export function createTemporaryCa(commonName = 'Temporary Test Root'): TemporaryCa {
  const rootKey = createKey();
  const leafKey = createKey();
  let serial = 1;

  const root = createCertificate(rootKey, commonName, Date.now() - hourMs, Date.now() + 24 * hourMs);
  root.setIssuer(root.subject.attributes);
  root.setExtensions([
    { name: 'basicConstraints', cA: true, critical: true },
    { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
    { name: 'subjectKeyIdentifier' },
  ]);
  root.sign(rootKey.forge, forge.md.sha256.create());

  function createCertificate(key: Key, name: string, notBeforeMs: number, notAfterMs: number) {
    const certificate = forge.pki.createCertificate();
    certificate.publicKey = forge.pki.setRsaPublicKey(key.forge.n, key.forge.e);
    certificate.serialNumber = (serial++).toString(16).padStart(2, '0');
    certificate.validity.notBefore = new Date(notBeforeMs);
    certificate.validity.notAfter = new Date(notAfterMs);
    certificate.setSubject([{ name: 'commonName', value: name }]);
    return certificate;
  }

  return {
    rootPem: forge.pki.certificateToPem(root),
    issue(options) {
      const names = options.names ?? [];
      const certificate = createCertificate(
        leafKey,
        options.commonName ?? names[0] ?? 'temporary',
        options.notBeforeMs ?? Date.now() - hourMs,
        options.notAfterMs ?? Date.now() + 12 * hourMs,
      );
      certificate.setIssuer(root.subject.attributes);
      certificate.setExtensions([
        { name: 'basicConstraints', cA: false },
        { name: 'keyUsage', digitalSignature: true, keyEncipherment: true, critical: true },
        { name: 'extKeyUsage', serverAuth: options.use !== 'client', clientAuth: options.use === 'client' },
        ...(names.length === 0
          ? []
          : [{ name: 'subjectAltName', altNames: names.map((value) => ({ type: 2, value })) }]),
      ]);
      certificate.sign(rootKey.forge, forge.md.sha256.create());
      return { certificatePem: forge.pki.certificateToPem(certificate), privateKeyPem: leafKey.pem };
    },
  };
}

interface Key {
  pem: string;
  forge: forge.pki.rsa.PrivateKey;
}

function createKey(): Key {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const pem = privateKey.export({ type: 'pkcs8', format: 'pem' }) as string;
  return { pem, forge: forge.pki.privateKeyFromPem(pem) };
}
