// The files of a package, below a folder of their own: what install.sh lays out, and what only packages have.
import { execFileSync } from 'node:child_process';
import { chmodSync, lutimesSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { gzipSync } from 'node:zlib';
import { renderBillOfMaterials, renderLicences } from './parts.mjs';
import { fetchRuntime, readFromRuntime } from './runtime.mjs';

const record = '/usr/lib/efs-agent/installed';
/** In a folder named bin: security policies tell by its place that it is a program. */
const runtimePath = '/usr/lib/efs-agent/bin/node';
const documents = '/usr/share/doc/efs-agent';

/**
 * Fills an empty folder and says what is in it: `files` (not folders), sorted, with those of them that are
 * configuration, and the folders that are the package's own, or would be nobody's where fish or zsh is not installed.
 *
 * `zshFolder` is where this distribution's zsh looks. Without a processor the distribution's own node is used.
 */
export function layOut(root, { processor, epochSeconds, zshFolder }) {
  mkdirSync(join(root, zshFolder), { recursive: true });
  const node = processor === null ? '/usr/bin/node' : runtimePath;
  execFileSync(resolve('install.sh'), ['--destdir', root, '--node', node], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const lines = readFileSync(join(root, record), 'utf8').trim().split('\n');
  const installed = lines.map((line) => line.split(' ')).filter(([, , path]) => path !== record);
  rmSync(join(root, record));
  const configuration = installed.filter(([kind]) => kind === 'config').map(([, , path]) => path);
  const files = installed.filter(([kind]) => kind !== 'dir').map(([, , path]) => path);

  for (const path of files.filter((name) => name.startsWith('/usr/share/man/'))) {
    put(root, `${path}.gz`, gzipSync(readFileSync(join(root, path)), { level: 9 }));
    rmSync(join(root, path));
    files[files.indexOf(path)] = `${path}.gz`;
  }
  const add = (path, bytes, mode) => {
    put(root, path, bytes, mode);
    files.push(path);
  };
  const archive = processor === null ? null : fetchRuntime(processor);
  if (archive !== null) add(runtimePath, readFromRuntime(archive, 'bin/node'), 0o755);
  const licence = archive === null ? null : readFromRuntime(archive, 'LICENSE').toString('utf8');
  add(`${documents}/copyright`, renderLicences(licence));
  add(`${documents}/changelog.gz`, gzipSync(readFileSync('CHANGELOG.md'), { level: 9 }));
  add(`${documents}/sbom.cdx.json`, renderBillOfMaterials({ processor, epochSeconds }));

  normalize(root, epochSeconds);
  const folders = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length))
    .filter((path) => /\/efs-agent(\/|$)|^\/etc\/amazon|^\/usr\/share\/(fish|zsh)/.test(path));
  return { files: files.sort(), configuration: configuration.sort(), folders: folders.sort() };
}

function put(root, path, bytes, mode = 0o644) {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), bytes);
  chmodSync(join(root, path), mode);
}

/** The same modes and times whoever builds, and whenever. */
function normalize(root, epochSeconds) {
  const entries = readdirSync(root, { recursive: true, withFileTypes: true });
  for (const entry of entries) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isDirectory()) chmodSync(path, 0o755);
  }
  chmodSync(root, 0o755);
  for (const entry of entries) lutimesSync(join(entry.parentPath, entry.name), epochSeconds, epochSeconds);
  lutimesSync(root, epochSeconds, epochSeconds);
}
