import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

/** Builds the archive for npm into `out` and gives its name: what is bundled already is no dependency any more. */
export function buildNpm({ work, out }) {
  const whole = JSON.parse(readFileSync('package.json', 'utf8'));
  const { name, version, description, license, type, engines, bin, files } = whole;
  mkdirSync(work, { recursive: true });
  for (const path of [...files, 'LICENSE', 'README.md']) cpSync(path, join(work, path), { recursive: true });
  const own = { name, version, description, license, type, engines, bin, files };
  writeFileSync(join(work, 'package.json'), `${JSON.stringify(own, null, 2)}\n`);
  execFileSync('npm', ['pack', '--silent', '--pack-destination', resolve(out)], {
    cwd: work,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  return `${name}-${version}.tgz`;
}
