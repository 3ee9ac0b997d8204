import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { buildPackages, buildPackagesOf } from '../support/packages.ts';

const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
const kinds = ['deb-x64', 'deb-arm64', 'deb-system-node', 'rpm-x64', 'rpm-arm64', 'rpm-system-node', 'npm'];
const shippedNode = /version: '([\d.]+)'/.exec(readFileSync('scripts/package/runtime.mjs', 'utf8'))![1]!;
let packages: Record<string, string>;
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'efs-packages-test-'));
  const paths = buildPackages(folder, kinds);
  packages = Object.fromEntries(kinds.map((kind, index) => [kind, paths[index]!]));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const run = (command: string, ...argv: string[]) =>
  execFileSync(command, argv, { encoding: 'utf8', maxBuffer: 1 << 26, stdio: ['ignore', 'pipe', 'pipe'] });

/** What every package lays out, whatever its kind; folders and chunks, whose names change with their content, left out. */
const files = [
  '/etc/amazon/efs/efs-utils.conf',
  '/etc/amazon/efs/efs-utils.crt',
  '/sbin/mount.efs',
  '/sbin/umount.efs',
  '/usr/bin/efs-agent',
  ...[
    'agent.cjs',
    'aws-sdk-cloudwatch.cjs',
    'aws-sdk-ec2.cjs',
    'aws-sdk.cjs',
    'efs-agent.mjs',
    'identity.cjs',
  ].map((name) => `/usr/lib/efs-agent/${name}`),
  ...['mount-efs.cjs', 'worker.cjs'].map((name) => `/usr/lib/efs-agent/${name}`),
  '/usr/lib/systemd/system/efs-agent.service',
  '/usr/lib/systemd/system/efs-agent.socket',
  '/usr/lib/sysusers.d/efs-agent.conf',
  '/usr/lib/tmpfiles.d/efs-agent.conf',
  ...['changelog.gz', 'copyright', 'sbom.cdx.json'].map((name) => `/usr/share/doc/efs-agent/${name}`),
  '/usr/share/bash-completion/completions/efs-agent',
  '/usr/share/fish/vendor_completions.d/efs-agent.fish',
  '/usr/share/man/man5/efs-utils.conf.5.gz',
  ...['efs-agent-target', 'efs-agent', 'mount.efs', 'umount.efs'].map(
    (name) => `/usr/share/man/man8/${name}.8.gz`,
  ),
];
const runtime = '/usr/lib/efs-agent/bin/node';
const inDeb = [...files, '/usr/share/zsh/vendor-completions/_efs-agent'];
const inRpm = [...files, '/usr/share/zsh/site-functions/_efs-agent'];

function listDeb(path: string): string[] {
  return run('dpkg-deb', '-c', path)
    .trim()
    .split('\n')
    .map((line) => line.split(/\s+/))
    .map(([mode = '', owner, , , , name = '']) => {
      expect(owner, name).toBe('root/root');
      return { isFolder: mode.startsWith('d'), path: name.slice(1) };
    })
    .filter(({ isFolder, path: name }) => !isFolder && !name.includes('/chunks/'))
    .map(({ path: name }) => name)
    .sort();
}

function listRpm(path: string): string[] {
  return run(
    'rpm',
    '-qp',
    '--qf',
    '[%{FILEMODES:perms} %{FILEUSERNAME}/%{FILEGROUPNAME} %{FILENAMES}\n]',
    path,
  )
    .trim()
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([mode = '', owner, name = '']) => {
      expect(owner, name).toBe('root/root');
      return !mode.startsWith('d') && !name.includes('/chunks/');
    })
    .map(([, , name = '']) => name)
    .sort();
}

test('every package has the same files, and those for a processor its Node', () => {
  expect(listDeb(packages['deb-x64']!)).toEqual([...inDeb, runtime].toSorted());
  expect(listDeb(packages['deb-arm64']!)).toEqual([...inDeb, runtime].toSorted());
  expect(listDeb(packages['deb-system-node']!)).toEqual(inDeb.toSorted());
  expect(listRpm(packages['rpm-x64']!)).toEqual([...inRpm, runtime].toSorted());
  expect(listRpm(packages['rpm-arm64']!)).toEqual([...inRpm, runtime].toSorted());
  expect(listRpm(packages['rpm-system-node']!)).toEqual(inRpm.toSorted());
});

test('the Node inside is of the processor of the package, and one that ./check tests with', () => {
  const machines = { 'deb-x64': 62, 'deb-arm64': 183 };
  for (const [kind, machine] of Object.entries(machines)) {
    const root = join(folder, kind);
    run('dpkg-deb', '-x', packages[kind]!, root);
    expect(readFileSync(join(root, 'usr/lib/efs-agent/bin/node')).readUInt16LE(18)).toBe(machine);
    expect(readFileSync(join(root, 'usr/lib/efs-agent/mount-efs.cjs'), 'utf8')).toContain(
      'exec /usr/lib/efs-agent/bin/node "$0"',
    );
    expect(readFileSync(join(root, 'usr/lib/systemd/system/efs-agent.service'), 'utf8')).toContain(
      'ExecStart=/usr/lib/efs-agent/bin/node --',
    );
  }
  expect(readFileSync('scripts/check-host.mjs', 'utf8')).toMatch(
    new RegExp(`nodeLines = .*'${shippedNode}'`),
  );
});

test('two builds give the same bytes', () => {
  // One of each kind: what differs between the others is a folder's name and the file of Node.
  const again = [`deb-${process.arch}`, `rpm-${process.arch}`, 'npm'];
  const digest = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');

  const rebuilt = buildPackages(folder, again);

  expect(rebuilt.map(digest)).toEqual(again.map((kind) => digest(packages[kind]!)));
});

test('a .deb says what it needs, what it stands in for, and which files are the administrator’s', () => {
  const field = (kind: string, name: string) => run('dpkg-deb', '-f', packages[kind]!, name).trim();

  for (const kind of ['deb-x64', 'deb-arm64', 'deb-system-node']) {
    expect(field(kind, 'Conflicts')).toBe('amazon-efs-utils');
    expect(field(kind, 'Replaces')).toBe('amazon-efs-utils');
    expect(field(kind, 'Provides')).toBe('amazon-efs-utils (= 3.2.0)');
    expect(field(kind, 'Version')).toBe(`${version}-1`);
    expect(run('dpkg-deb', '-I', packages[kind]!, 'conffiles')).toBe(
      '/etc/amazon/efs/efs-utils.conf\n/etc/amazon/efs/efs-utils.crt\n',
    );
  }
  expect(field('deb-x64', 'Architecture')).toBe('amd64');
  expect(field('deb-x64', 'Depends')).not.toContain('nodejs');
  expect(field('deb-system-node', 'Depends')).toBe('nfs-common, nodejs (>= 20.19)');
});

test('the scripts of both kinds are whole and sound', () => {
  const scripts: [string, string][] = ['postinst', 'prerm', 'postrm'].map((name) => [
    name,
    run('dpkg-deb', '-I', packages['deb-x64']!, name),
  ]);
  for (const tag of ['POSTIN', 'PREUN', 'POSTUN'])
    scripts.push([tag, run('rpm', '-qp', '--qf', `%{${tag}}`, packages['rpm-x64']!)]);

  for (const [name, text] of scripts) {
    const path = join(folder, name);
    writeFileSync(path, text);
    expect(text, name).toContain('refuse_while_mounted()');
    expect(text, name).not.toMatch(/^\. /m);
    expect(spawnSync('shellcheck', ['-s', 'sh', path], { encoding: 'utf8' }).stdout, name).toBe('');
  }
});

test('an .rpm goes into an empty root, is upgraded without touching the configuration, and leaves nothing', () => {
  const root = join(folder, 'rpm-root');
  mkdirSync(root);
  const [newer] = buildPackagesOf('99.0.0', folder, ['rpm-system-node']);
  const rpm = (...argv: string[]) =>
    run('rpm', '--root', root, '--dbpath', '/db', '--nodeps', '--noscripts', ...argv);
  const list = () =>
    run('find', root, '-path', `${root}/db`, '-prune', '-o', '!', '-type', 'd', '-print')
      .split('\n')
      .filter((path) => path !== '' && !path.includes('/chunks/'))
      .map((path) => path.slice(root.length))
      .sort();

  rpm('-i', packages['rpm-system-node']!);
  expect(list()).toEqual(inRpm.toSorted());
  const configuration = join(root, 'etc/amazon/efs/efs-utils.conf');
  writeFileSync(configuration, '# mine\n');
  rpm('-U', newer!);
  expect(readFileSync(configuration, 'utf8')).toBe('# mine\n');
  expect(run('rpm', '--root', root, '--dbpath', '/db', '-q', 'efs-agent')).toContain(
    'efs-agent-99.0.0-1.noarch',
  );
  rpm('-e', 'efs-agent');

  expect(list()).toEqual(['/etc/amazon/efs/efs-utils.conf.rpmsave']);
});

test('the archive for npm installs without a registry, and runs', () => {
  const prefix = join(folder, 'prefix');
  const argv = ['install', '--global', '--offline', '--prefix', prefix, packages['npm']!];
  run('npm', ...argv);

  const shown = run(join(prefix, 'bin/efs-agent'), '--version');
  expect(shown.trim()).toContain(version);
  expect(run(join(prefix, 'bin/mount.efs'), '--version')).toContain(version);
  const root = join(folder, 'from-npm');
  run(join(prefix, 'lib/node_modules/efs-agent/install.sh'), '--destdir', root);
  expect(existsSync(join(root, 'usr/lib/systemd/system/efs-agent.service'))).toBe(true);
});

test('npm pack of the clone has the same files as the archive that is built', () => {
  const packed = JSON.parse(run('npm', 'pack', '--dry-run', '--json', '--ignore-scripts')) as {
    files: { path: string }[];
  }[];
  const built = run('tar', '-tzf', packages['npm']!)
    .trim()
    .split('\n')
    .map((path) => path.replace(/^package\//, ''));

  expect(packed[0]!.files.map(({ path }) => path).sort()).toEqual(built.sort());
});

test('the bill of materials names every package that is bundled, and the Node inside', () => {
  const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as {
    dependencies: Record<string, string>;
  };
  const root = join(folder, 'bill');
  run('dpkg-deb', '-x', packages['deb-x64']!, root);
  const documents = join(root, 'usr/share/doc/efs-agent');
  const bill = JSON.parse(readFileSync(join(documents, 'sbom.cdx.json'), 'utf8')) as {
    bomFormat: string;
    components: { name: string; version: string; purl: string }[];
  };

  expect(bill.bomFormat).toBe('CycloneDX');
  const named = bill.components.map(({ name, version: of }) => `${name} ${of}`);
  expect(named).toEqual(
    expect.arrayContaining(Object.entries(dependencies).map(([name, of]) => `${name} ${of}`)),
  );
  expect(named).toContain(`node ${shippedNode}`);
  const licences = readFileSync(join(documents, 'copyright'), 'utf8');
  for (const name of named.filter((each) => !each.startsWith('node 2')))
    expect(licences, name).toMatch(new RegExp(`^${name.replaceAll(/[.*+?/@]/g, '\\$&')}$`, 'm'));
  expect(readdirSync(dirname(packages['npm']!)).map((name) => basename(name))).toContain('SHA256SUMS');
});
