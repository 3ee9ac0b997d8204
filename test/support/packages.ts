import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const clone = resolve(import.meta.dirname, '../..');

/** Builds packages as `npm run package` does, into a new folder inside of the caller's; gives their paths. */
export function buildPackages(folder: string, kinds: string[], release = 1, source = clone): string[] {
  const out = mkdtempSync(join(folder, 'packages-'));
  const only = kinds.flatMap((kind) => ['--only', kind]);
  const argv = ['scripts/package/package.mjs', '--out', out, '--release', String(release), ...only];
  // A source that is no clone of git has no commit whose time it could take.
  const env = source === clone ? process.env : { ...process.env, SOURCE_DATE_EPOCH: '1800000000' };
  return execFileSync(process.execPath, argv, { cwd: source, encoding: 'utf8', env }).trim().split('\n');
}

/** As `buildPackages` in a clone whose package.json and programs say that they are of this version. */
export function buildPackagesOf(version: string, folder: string, kinds: string[]): string[] {
  const source = mkdtempSync(join(folder, 'source-'));
  for (const name of ['CHANGELOG.md', 'LICENSE', 'docs', 'install.sh', 'node_modules', 'scripts', 'systemd'])
    symlinkSync(join(clone, name), join(source, name));
  // Where Node's archives are kept.
  mkdirSync(join(clone, 'out/node'), { recursive: true });
  mkdirSync(join(source, 'out'));
  symlinkSync(join(clone, 'out/node'), join(source, 'out/node'));
  for (const name of ['package.json', 'package-lock.json']) {
    const text = readFileSync(join(clone, name), 'utf8');
    writeFileSync(join(source, name), text.replace(/"version": "[^"]+"/, `"version": "${version}"`));
  }
  const build = ['scripts/build.mjs', '--version', version, '--out', join(source, 'dist')];
  execFileSync(process.execPath, build, { cwd: clone, stdio: ['ignore', 'ignore', 'inherit'] });
  return buildPackages(folder, kinds, 1, source);
}
