import { X509Certificate } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { rootCertificates } from 'node:tls';
import { afterAll, expect, test } from 'vitest';
import { readTrustedRoots } from '../../src/host/trusted-roots.ts';
import { createTemporaryCa } from '../support/temporary-ca.ts';

const folder = mkdtempSync(join(tmpdir(), 'efs-agent-roots-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const fingerprints = (certificates: readonly string[]) =>
  certificates.map((pem) => new X509Certificate(pem).fingerprint256).sort();
const carried = rootCertificates.filter((pem) =>
  /^CN=Amazon Root CA [1-4]$/m.test(new X509Certificate(pem).subject),
);

function write(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

test('systemd/efs-utils.crt holds the four Amazon roots that Node carries, each under its name', async () => {
  const found = await readTrustedRoots('systemd/efs-utils.crt', true);

  expect(found).toHaveLength(4);
  expect(fingerprints(found)).toEqual(fingerprints(carried));
  const names = readFileSync('systemd/efs-utils.crt', 'utf8').match(/^# Amazon Root CA [1-4]$/gm);
  expect(names).toEqual([1, 2, 3, 4].map((number) => `# Amazon Root CA ${number}`));
});

test('without the default file the Amazon roots of Node count, and no other root', async () => {
  const found = await readTrustedRoots(join(folder, 'missing.crt'), false);

  expect(fingerprints(found)).toEqual(fingerprints(carried));
});

test('a file that the user named must be there', async () => {
  const path = join(folder, 'missing.crt');

  await expect(readTrustedRoots(path, true)).rejects.toMatchObject({
    code: 'ca-file.unreadable',
    message: expect.stringContaining(path),
  });
});

test('a directory in the place of the default file is an error, not an absence', async () => {
  await expect(readTrustedRoots(folder, false)).rejects.toMatchObject({ code: 'ca-file.unreadable' });
});

test('certificates are found between comments and with either line ending', async () => {
  const [first, second] = [createTemporaryCa().rootPem.trim(), createTemporaryCa().rootPem.trim()];
  const path = write('two.crt', `# one\n${first}\nsome text\r\n${second.replaceAll('\n', '\r\n')}`);

  expect(fingerprints(await readTrustedRoots(path, true))).toEqual(fingerprints([first, second]));
});

test('a file without any certificate is refused', async () => {
  await expect(readTrustedRoots(write('empty.crt', '# nothing here\n'), true)).rejects.toMatchObject({
    code: 'ca-file.unreadable',
    message: expect.stringContaining('holds no certificate'),
  });
});

test('a damaged certificate is named by its number', async () => {
  const good = createTemporaryCa().rootPem.trim();
  const damaged = '-----BEGIN CERTIFICATE-----\nMIIBdamaged\n-----END CERTIFICATE-----';

  await expect(readTrustedRoots(write('damaged.crt', `${good}\n${damaged}\n`), true)).rejects.toMatchObject({
    code: 'ca-file.unreadable',
    details: { number: 2 },
  });
});
