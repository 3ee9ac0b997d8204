import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readUnprivilegedUser } from '../../src/host/users.ts';

const folder = mkdtempSync(join(tmpdir(), 'efs-agent-users-'));
const bundle = join(folder, 'users.mjs');
const nobody = readFileSync('/etc/passwd', 'utf8')
  .split('\n')
  .map((line) => line.split(':'))
  .find(([name]) => name === 'nobody');

beforeAll(() =>
  build({
    entryPoints: ['src/host/users.ts'],
    outfile: bundle,
    bundle: true,
    platform: 'node',
    format: 'esm',
  }),
);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test.skipIf(process.getuid?.() !== 0)('a user that does not exist stands for nobody', async () => {
  expect(await readUnprivilegedUser('no-such-user-here')).toEqual({
    uid: Number(nobody?.[2] ?? 65534),
    gid: Number(nobody?.[3] ?? 65534),
  });
});

test.skipIf(process.getuid?.() !== 0)(
  'root is never the unprivileged user, even when it is named',
  async () => {
    expect(await readUnprivilegedUser('root')).toEqual({ uid: 65534, gid: 65534 });
  },
);

test('who is not root cannot change to anyone', () => {
  // The bundle is loaded while the process may still read it.
  const program = `const { readUnprivilegedUser } = await import(process.argv[1]);
    if (process.getuid() === 0) process.setuid(65534);
    console.log(JSON.stringify(await readUnprivilegedUser('nobody')));`;

  const said = execFileSync(process.execPath, ['--input-type=module', '-e', program, bundle], {
    encoding: 'utf8',
  });

  expect(said.trim()).toBe('null');
});
