import { generateKeyPairSync } from 'node:crypto';
import forge from 'node-forge';

const hourMs = 3_600_000;

/** A subject alternative name, its bytes as they are: `dns` may hold a NUL or anything else. */
export type AlternativeName = { dns: string } | { ip: string } | { uri: string };

/** What a certificate says; everything that is left out is as in a good one. */
export interface CertificateForm {
  commonName?: string;
  names?: AlternativeName[];
  notBeforeMs?: number;
  notAfterMs?: number;
  use?: 'server' | 'client' | 'none';
  isAuthority?: boolean;
  /** How many authorities may stand below this one. */
  pathLength?: number;
  digest?: 'sha256' | 'sha1';
  keyBits?: number;
}

/** A certificate with its key, which may sign others. */
export interface Issued {
  pem: string;
  keyPem: string;
  issue(form: CertificateForm): Issued;
}

/** A root of its own: a self-signed authority, or, with `isAuthority: false`, a self-signed server. */
export function createRoot(form: CertificateForm = {}): Issued {
  return createIssued({ commonName: 'Root', isAuthority: true, ...form }, null);
}

let serial = 1;

function createIssued(
  form: CertificateForm,
  issuer: { name: forge.pki.CertificateField[]; key: forge.pki.rsa.PrivateKey } | null,
): Issued {
  const keyPem = createKeyPem(form.keyBits ?? 2048);
  const key = forge.pki.privateKeyFromPem(keyPem);
  const certificate = forge.pki.createCertificate();
  certificate.publicKey = forge.pki.setRsaPublicKey(key.n, key.e);
  certificate.serialNumber = (serial++).toString(16).padStart(4, '0');
  certificate.validity.notBefore = new Date(form.notBeforeMs ?? Date.now() - hourMs);
  certificate.validity.notAfter = new Date(form.notAfterMs ?? Date.now() + 12 * hourMs);
  certificate.setSubject([{ name: 'commonName', value: form.commonName ?? 'mount target' }]);
  certificate.setIssuer(issuer?.name ?? certificate.subject.attributes);
  certificate.setExtensions(listExtensions(form));
  certificate.sign(issuer?.key ?? key, forge.md[form.digest ?? 'sha256'].create());
  const own = { name: certificate.subject.attributes, key };
  return {
    pem: forge.pki.certificateToPem(certificate),
    keyPem,
    issue: (next) => createIssued(next, own),
  };
}

function listExtensions({
  isAuthority = false,
  pathLength,
  use = 'server',
  names = [],
}: CertificateForm): object[] {
  if (isAuthority) {
    return [
      {
        name: 'basicConstraints',
        cA: true,
        critical: true,
        ...(pathLength === undefined ? {} : { pathLenConstraint: pathLength }),
      },
      { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
      { name: 'subjectKeyIdentifier' },
    ];
  }
  return [
    { name: 'basicConstraints', cA: false },
    { name: 'keyUsage', digitalSignature: true, keyEncipherment: true, critical: true },
    ...(use === 'none'
      ? []
      : [{ name: 'extKeyUsage', serverAuth: use === 'server', clientAuth: use === 'client' }]),
    ...(names.length === 0 ? [] : [{ name: 'subjectAltName', altNames: names.map(asAltName) }]),
  ];
}

/** Types of RFC 5280, GeneralName. */
function asAltName(name: AlternativeName): object {
  if ('dns' in name) return { type: 2, value: name.dns };
  return 'ip' in name ? { type: 7, ip: name.ip } : { type: 6, value: name.uri };
}

const keys = new Map<number, string[]>();

/** Keys are slow to make: a few serve all certificates of a test file. */
function createKeyPem(bits: number): string {
  const made = keys.get(bits) ?? [];
  keys.set(bits, made);
  if (made.length < 3) {
    const { privateKey } = generateKeyPairSync('rsa', { modulusLength: bits });
    made.push(privateKey.export({ type: 'pkcs8', format: 'pem' }) as string);
    return made.at(-1)!;
  }
  return made[serial % made.length]!;
}
