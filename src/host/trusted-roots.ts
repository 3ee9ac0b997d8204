import { X509Certificate } from 'node:crypto';
import { rootCertificates } from 'node:tls';
import { AgentError } from '../core/errors.ts';
import { isUnderSystemd } from './notify.ts';
import { readRegularFile } from './regular-file.ts';

/**
 * Reads the certificates that may sign a mount target's, as PEM texts.
 *
 * The default path may be missing: then the Amazon roots that Node itself carries count (Amazon Root CA 1 to 4,
 * the four of the reference's bundle, specification 11). A file that the user named must be there.
 *
 * Errors: `ca-file.unreadable` (missing, unreadable, no certificate in it, a damaged one).
 */
export async function readTrustedRoots(path: string, named: boolean): Promise<string[]> {
  const text = await readRegularFile(path).catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === 'ENOENT' && !named) return null;
    throw new AgentError(
      'ca-file.unreadable',
      `Failed to find certificate authority file for verification: ${path} (${cause.code})`,
      /^\/(?:var\/)?tmp\//.test(path) && isUnderSystemd()
        ? { path, hint: 'The service has a /tmp and a /var/tmp of its own: put the file elsewhere.' }
        : { path },
      cause,
    );
  });
  if (text === null) return amazonRoots();
  if (text === latest?.text) return latest.certificates;
  const certificates = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  if (certificates.length === 0) {
    throw new AgentError(
      'ca-file.unreadable',
      `the certificate authority file ${path} holds no certificate`,
      { path },
    );
  }
  latest = { text, certificates: certificates.map((pem, index) => checkCertificate(pem, index + 1, path)) };
  return latest.certificates;
}

/** What was read last: checking a distribution's bundle again for each mount takes longer than all else. */
let latest: { text: string; certificates: string[] } | null = null;

let foundAmazonRoots: string[] | null = null;

function amazonRoots(): string[] {
  foundAmazonRoots ??= rootCertificates.filter((pem) =>
    /^CN=Amazon Root CA [1-4]$/m.test(new X509Certificate(pem).subject),
  );
  return foundAmazonRoots;
}

function checkCertificate(pem: string, number: number, path: string): string {
  try {
    return `${new X509Certificate(pem).toString().trim()}\n`;
  } catch (cause) {
    throw new AgentError(
      'ca-file.unreadable',
      `certificate ${number} in ${path} is damaged`,
      { path, number },
      cause,
    );
  }
}
