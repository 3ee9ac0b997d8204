import type { TlsOptions } from 'node:tls';
import { tlsServerName } from '../../src/core/endpoint.ts';
import { type CertificateForm, createRoot, type Issued } from '../support/tls-certificates.ts';

/** One mount target with one thing about it, and what a tunnel must make of it: the verdicts of docs/tls.md. */
export interface TlsCase {
  what: string;
  presented: Presented;
  server: TlsOptions;
  /** The name that the certificate must carry. */
  expected: string;
  trusted: string[];
  /** `accepted`, or the fault's code. */
  verdict: string;
}

const id = 'fs-0123456789abcdef0';
const domain = 'efs.us-east-1.amazonaws.com';
export const name = `${id}.${domain}`;
const hourMs = 3_600_000;
export const root = createRoot({ commonName: 'Trusted Root' });

export interface Presented {
  chain: string;
  keyPem: string;
}

const present = (leaf: Issued, ...above: Issued[]): Presented => ({
  chain: [leaf, ...above].map(({ pem }) => pem).join(''),
  keyPem: leaf.keyPem,
});

export const named = (form: CertificateForm): Presented => present(root.issue(form));

const names: [what: string, form: CertificateForm, expected: string, verdict: string][] = [
  ["the service's own wildcard", { names: [{ dns: `*.${domain}` }] }, name, 'accepted'],
  ['the whole name', { names: [{ dns: name }] }, name, 'accepted'],
  ['the whole name among others', { names: [{ dns: 'other.example' }, { dns: name }] }, name, 'accepted'],
  ['upper case in the certificate', { names: [{ dns: `*.${domain.toUpperCase()}` }] }, name, 'accepted'],
  ['upper case in the name', { names: [{ dns: `*.${domain}` }] }, name.toUpperCase(), 'accepted'],
  ['a dot at the end of the name in the certificate', { names: [{ dns: `${name}.` }] }, name, 'accepted'],
  [
    'a name with a zone, whose zone was taken off',
    { names: [{ dns: `*.${domain}` }] },
    tlsServerName(`us-east-1a.${name}`, id),
    'accepted',
  ],
  [
    'a name with a zone, left on',
    { names: [{ dns: `*.${domain}` }] },
    `us-east-1a.${name}`,
    'tls.name-mismatch',
  ],
  ['another region', { names: [{ dns: '*.efs.eu-west-1.amazonaws.com' }] }, name, 'tls.name-mismatch'],
  ['another service', { names: [{ dns: '*.s3.us-east-1.amazonaws.com' }] }, name, 'tls.name-mismatch'],
  ['another file system', { names: [{ dns: `fs-0123456789abcdef1.${domain}` }] }, name, 'tls.name-mismatch'],
  ['the domain without a label for the file system', { names: [{ dns: domain }] }, name, 'tls.name-mismatch'],
  [
    'a wildcard that would have to cover two labels',
    { names: [{ dns: '*.us-east-1.amazonaws.com' }] },
    name,
    'tls.name-mismatch',
  ],
  [
    'a wildcard in the middle',
    { names: [{ dns: `${id}.*.us-east-1.amazonaws.com` }] },
    name,
    'tls.name-mismatch',
  ],
  ['two wildcards', { names: [{ dns: '*.*.us-east-1.amazonaws.com' }] }, name, 'tls.name-mismatch'],
  ['a wildcard for everything', { names: [{ dns: '*' }] }, name, 'tls.name-mismatch'],
  ['a wildcard for a top-level domain', { names: [{ dns: '*.com' }] }, 'amazonaws.com', 'tls.name-mismatch'],
  ['the name as a suffix', { names: [{ dns: `evil-${name}` }] }, name, 'tls.name-mismatch'],
  ['the name as a prefix', { names: [{ dns: `${name}.evil.example` }] }, name, 'tls.name-mismatch'],
  [
    'the name, a NUL, and another domain',
    { names: [{ dns: `${name}\0.evil.example` }] },
    name,
    'tls.name-mismatch',
  ],
  [
    'another domain, a NUL, and the name',
    { names: [{ dns: `evil.example\0${name}` }] },
    name,
    'tls.name-mismatch',
  ],
  ['a NUL in the common name', { commonName: `${name}\0.evil.example` }, name, 'tls.name-mismatch'],
  [
    'a name that contains a list of names',
    { names: [{ dns: `evil.example, DNS:${name}` }] },
    name,
    'tls.name-mismatch',
  ],
  ['look-alike letters', { names: [{ dns: `fs-0123456789аbcdef0.${domain}` }] }, name, 'tls.name-mismatch'],
  [
    'an internationalized name',
    { names: [{ dns: `xn--fs-0123456789bcdef0-b3m.${domain}` }] },
    name,
    'tls.name-mismatch',
  ],
  ['an IP address alone', { commonName: 'x', names: [{ ip: '127.0.0.1' }] }, name, 'tls.name-mismatch'],
  [
    'the address that was dialled, as a DNS name',
    { names: [{ dns: '127.0.0.1' }] },
    name,
    'tls.name-mismatch',
  ],
  ['a URI alone', { commonName: 'x', names: [{ uri: `https://${name}/` }] }, name, 'tls.name-mismatch'],
  [
    'another name, with the right one as its common name',
    { commonName: name, names: [{ dns: 'evil.example' }] },
    name,
    'tls.name-mismatch',
  ],
  ['no name at all', { commonName: 'mount target' }, name, 'tls.name-mismatch'],
];

export const good: CertificateForm = { names: [{ dns: `*.${domain}` }] };
const middle = root.issue({ commonName: 'Intermediate', isAuthority: true });
const oldMiddle = root.issue({
  commonName: 'Old Intermediate',
  isAuthority: true,
  notAfterMs: Date.now() - 1_000,
});
const lastMiddle = root.issue({ commonName: 'Last Intermediate', isAuthority: true, pathLength: 0 });
const tooDeep = lastMiddle.issue({ commonName: 'One too many', isAuthority: true });
const noAuthority = root.issue({ commonName: 'Not an authority', ...good });
const stranger = createRoot({ commonName: 'Somebody Else' });
const impostor = createRoot({ commonName: 'Trusted Root' });
const alone = createRoot({ ...good, commonName: 'Alone', isAuthority: false });
const outdated = createRoot({ commonName: 'Outdated Root', notBeforeMs: 0, notAfterMs: Date.now() - 1_000 });

const chains: [what: string, presented: Presented, verdict: string, trusted?: string[]][] = [
  ['of a trusted root', named(good), 'accepted'],
  ['with its intermediate', present(middle.issue(good), middle), 'accepted'],
  ['with its intermediate and the root', present(middle.issue(good), middle, root), 'accepted'],
  ['whose intermediate is left out', present(middle.issue(good)), 'tls.untrusted'],
  ['whose intermediate has expired', present(oldMiddle.issue(good), oldMiddle), 'tls.expired'],
  ['whose issuer is no authority', present(noAuthority.issue(good), noAuthority), 'tls.untrusted'],
  ['deeper than an authority allows', present(tooDeep.issue(good), tooDeep, lastMiddle), 'tls.untrusted'],
  ['of an unknown authority', present(stranger.issue(good), stranger), 'tls.untrusted'],
  [
    'of another authority with the name of a trusted one',
    present(impostor.issue(good), impostor),
    'tls.untrusted',
  ],
  ['signed by itself', present(alone), 'tls.untrusted'],
  ['of a trusted root that has expired', present(outdated.issue(good)), 'tls.expired', [outdated.pem]],
  ['with no root to trust', named(good), 'tls.untrusted', []],
  [
    'that has expired',
    named({ ...good, notBeforeMs: Date.now() - 2 * hourMs, notAfterMs: Date.now() - hourMs }),
    'tls.expired',
  ],
  ['that is not valid yet', named({ ...good, notBeforeMs: Date.now() + hourMs }), 'tls.expired'],
  ['for clients only', named({ ...good, use: 'client' }), 'tls.untrusted'],
  ['without a stated use', named({ ...good, use: 'none' }), 'accepted'],
  [
    'of an authority, used by a server',
    present(root.issue({ ...good, commonName: name, isAuthority: true })),
    'tls.untrusted',
  ],
  ['that is signed with SHA-1', named({ ...good, digest: 'sha1' }), 'tls.untrusted'],
  ['with an RSA key of 1024 bits', named({ ...good, keyBits: 1024 }), 'tls.untrusted'],
];

const weak = { ciphers: 'ALL:@SECLEVEL=0' };
const versions: [what: string, server: TlsOptions, verdict: string][] = [
  ['TLS 1.0', { ...weak, minVersion: 'TLSv1', maxVersion: 'TLSv1' }, 'tls.failed'],
  ['TLS 1.1', { ...weak, minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1' }, 'tls.failed'],
  ['TLS 1.2', { maxVersion: 'TLSv1.2' }, 'accepted'],
  ['TLS 1.3', { minVersion: 'TLSv1.3' }, 'accepted'],
  ...['ECDHE-RSA-AES128-GCM-SHA256', 'ECDHE-RSA-AES256-GCM-SHA384', 'ECDHE-RSA-CHACHA20-POLY1305'].map(
    (ciphers): [string, TlsOptions, string] => [ciphers, { maxVersion: 'TLSv1.2', ciphers }, 'accepted'],
  ),
  ...['TLS_AES_128_GCM_SHA256', 'TLS_AES_256_GCM_SHA384', 'TLS_CHACHA20_POLY1305_SHA256'].map(
    (ciphers): [string, TlsOptions, string] => [ciphers, { minVersion: 'TLSv1.3', ciphers }, 'accepted'],
  ),
  ...[
    'AES128-GCM-SHA256',
    'AES256-SHA',
    'ECDHE-RSA-AES128-SHA256',
    'ECDHE-RSA-AES256-SHA',
    'NULL-SHA256',
    'AECDH-AES256-SHA',
  ].map((ciphers): [string, TlsOptions, string] => [
    ciphers,
    { maxVersion: 'TLSv1.2', ciphers: `${ciphers}:@SECLEVEL=0` },
    'tls.failed',
  ]),
  ['TLS_AES_128_CCM_SHA256', { minVersion: 'TLSv1.3', ciphers: 'TLS_AES_128_CCM_SHA256' }, 'tls.failed'],
];

const known = { server: {}, expected: name, trusted: [root.pem] };

/** By the sentence that a case completes. */
export const tlsCases: Record<'a certificate' | 'a mount target that speaks only', TlsCase[]> = {
  'a certificate': [
    ...names.map(([what, form, expected, verdict]) => ({
      ...known,
      what: `for ${what}`,
      presented: named(form),
      expected,
      verdict,
    })),
    ...chains.map(([what, presented, verdict, trusted = known.trusted]) => ({
      ...known,
      what,
      presented,
      // What is refused shall be so by us, not by the server's own library.
      server: { ciphers: 'DEFAULT:@SECLEVEL=0' },
      trusted,
      verdict,
    })),
  ],
  'a mount target that speaks only': versions.map(([what, server, verdict]) => ({
    ...known,
    what,
    presented: named(good),
    server,
    verdict,
  })),
};
