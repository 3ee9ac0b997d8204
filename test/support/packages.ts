import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll } from 'vitest';

/** Builds packages as `npm run package` does, into a folder that is removed after the tests; gives their paths. */
export function buildPackages(kinds: string[], release = 1): string[] {
  const out = mkdtempSync(join(tmpdir(), 'efs-packages-'));
  afterAll(() => rmSync(out, { recursive: true, force: true }));
  const only = kinds.flatMap((kind) => ['--only', kind]);
  const script = resolve(import.meta.dirname, '../../scripts/package/package.mjs');
  return execFileSync(process.execPath, [script, '--out', out, '--release', String(release), ...only], {
    encoding: 'utf8',
  })
    .trim()
    .split('\n');
}
