import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { layOut } from './layout.mjs';
import { readScriptlet } from './scriptlets.mjs';

const architectures = { x64: 'x86_64', arm64: 'aarch64' };

/** Builds one .rpm into `out` and gives its name. Without a processor it runs on the distribution's Node. */
export function buildRpm({ about, processor, work, out, epochSeconds }) {
  const root = join(work, 'root');
  mkdirSync(root, { recursive: true });
  const content = layOut(root, { processor, epochSeconds, zshFolder: '/usr/share/zsh/site-functions' });
  const architecture = processor === null ? 'noarch' : architectures[processor];
  const spec = join(work, 'efs-agent.spec');
  writeFileSync(spec, renderSpec({ about, processor, content }));
  const top = resolve(work, 'rpmbuild');
  // rpmbuild empties and fills its own root; the files are copied as they are, with their times.
  const definitions = {
    _topdir: top,
    _staged: resolve(root),
    _dbpath: join(top, 'db'),
    _buildhost: 'reproducible',
    _rpmfilename: '%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm',
    _binary_payload: 'w9.zstdio',
    _build_id_links: 'none',
    use_source_date_epoch_as_buildtime: '1',
    clamp_mtime_to_source_date_epoch: '1',
    // Programs stay as they were built: nothing is stripped, compressed or searched for what it needs.
    __os_install_post: '%{nil}',
    debug_package: '%{nil}',
  };
  const defined = Object.entries(definitions).flatMap(([name, value]) => ['--define', `${name} ${value}`]);
  execFileSync('rpmbuild', ['--quiet', '--target', `${architecture}-linux`, ...defined, '-bb', spec], {
    // Its warnings (links are absolute, as Debian wants them) matter only when it fails; then they are in the error.
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, SOURCE_DATE_EPOCH: String(epochSeconds) },
  });
  const name = `efs-agent-${about.version}-${about.release}.${architecture}.rpm`;
  copyFileSync(join(top, 'RPMS', name), join(out, name));
  return name;
}

function renderSpec({ about, processor, content: { files, configuration, folders } }) {
  const runtime =
    processor === null
      ? ['nodejs(engine) >= 20.19', '/usr/bin/node']
      : ['glibc >= 2.28', 'libgcc', 'libstdc++ >= 8'];
  const listed = [
    ...folders.map((path) => `%dir "${path}"`),
    ...files.map((path) => `${configuration.includes(path) ? '%config(noreplace) ' : ''}"${path}"`),
  ];
  const script = (name) => `%${name}\n${readScriptlet(`rpm/${name}`).replaceAll('%', '%%')}`;
  return [
    'Name: efs-agent',
    `Version: ${about.version}`,
    `Release: ${about.release}`,
    `Summary: ${about.summary}`,
    'License: Apache-2.0',
    'AutoReqProv: no',
    ...['nfs-utils', 'shadow-utils', ...runtime].map((name) => `Requires: ${name}`),
    // No Obsoletes: a change of program under live mounts is the administrator's decision (dnf swap), not dnf upgrade's.
    'Conflicts: amazon-efs-utils',
    `Provides: amazon-efs-utils = ${about.stoodInFor}`,
    '%description',
    ...about.description,
    '%install',
    'cp -a %{_staged}/. %{buildroot}/',
    script('post'),
    script('preun'),
    script('postun'),
    '%files',
    '%defattr(-,root,root)',
    ...listed,
    '',
  ].join('\n');
}
