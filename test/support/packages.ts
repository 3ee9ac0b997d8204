import { execFileSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { join, resolve } from 'node:path';

/** Builds packages as `npm run package` does, into a new folder inside of the caller's; gives their paths. */
export function buildPackages(folder: string, kinds: string[], release = 1): string[] {
  const out = mkdtempSync(join(folder, 'packages-'));
  const only = kinds.flatMap((kind) => ['--only', kind]);
  const script = resolve(import.meta.dirname, '../../scripts/package/package.mjs');
  return execFileSync(process.execPath, [script, '--out', out, '--release', String(release), ...only], {
    encoding: 'utf8',
  })
    .trim()
    .split('\n');
}
