import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { lstatSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { layOut } from './layout.mjs';
import { readScriptlet } from './scriptlets.mjs';

const architectures = { x64: 'amd64', arm64: 'arm64' };

/** Builds one .deb into `out` and gives its name. Without a processor it runs on the distribution's Node. */
export function buildDeb({ about, processor, work, out, epochSeconds }) {
  const root = join(work, 'root');
  mkdirSync(root, { recursive: true });
  const { files, configuration } = layOut(root, {
    processor,
    epochSeconds,
    zshFolder: '/usr/share/zsh/vendor-completions',
  });
  const control = join(root, 'DEBIAN');
  mkdirSync(control, { mode: 0o755 });
  const architecture = processor === null ? 'all' : architectures[processor];
  const version = `${about.version}-${about.release}`;
  const regular = files.filter((path) => lstatSync(join(root, path)).isFile());
  write(control, 'control', renderControl({ about, version, architecture, processor, root, files }));
  write(control, 'conffiles', configuration.map((path) => `${path}\n`).join(''));
  write(
    control,
    'md5sums',
    regular
      .filter((path) => !configuration.includes(path))
      .map((path) => `${digest(join(root, path))}  ${path.slice(1)}\n`)
      .join(''),
  );
  for (const name of ['postinst', 'prerm', 'postrm'])
    write(control, name, readScriptlet(`deb/${name}`), 0o755);
  const name = `efs-agent_${version}_${architecture}.deb`;
  // zstd: known to Debian 12 and Ubuntu 20.04, and unpacked many times faster than xz.
  const options = ['--root-owner-group', '-Zzstd', '-z9', '--build', root, join(out, name)];
  execFileSync('dpkg-deb', options, {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, SOURCE_DATE_EPOCH: String(epochSeconds) },
  });
  return name;
}

function renderControl({ about, version, architecture, processor, root, files }) {
  // What the Node inside is linked against; the mount itself is nfs-common's mount.nfs4.
  const runtime = processor === null ? 'nodejs (>= 20.19)' : 'libc6 (>= 2.28), libgcc-s1, libstdc++6 (>= 8)';
  const kibibytes = files.reduce((sum, path) => sum + Math.ceil(lstatSync(join(root, path)).size / 1024), 0);
  return [
    'Package: efs-agent',
    `Version: ${version}`,
    `Architecture: ${architecture}`,
    `Maintainer: ${about.maintainer}`,
    `Installed-Size: ${kibibytes}`,
    `Depends: nfs-common, ${runtime}`,
    'Suggests: nfs-ganesha, nfs-ganesha-vfs',
    'Conflicts: amazon-efs-utils',
    'Replaces: amazon-efs-utils',
    `Provides: amazon-efs-utils (= ${about.stoodInFor})`,
    'Section: net',
    'Priority: optional',
    `Description: ${about.summary}`,
    ...about.description.map((line) => ` ${line}`),
    '',
  ].join('\n');
}

function write(folder, name, text, mode = 0o644) {
  writeFileSync(join(folder, name), text, { mode });
}

function digest(path) {
  return createHash('md5').update(readFileSync(path)).digest('hex');
}
