import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { smallHeap } from '../../src/core/small-heap.ts';

const script = resolve(import.meta.dirname, '../../install.sh');
let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'efs-install-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function install(argv: string[], path = process.env['PATH']) {
  const { status, stdout, stderr } = spawnSync(script, ['--destdir', root, ...argv], {
    encoding: 'utf8',
    env: { PATH: path },
  });
  return { status, stdout, stderr };
}

const listing = () => readdirSync(root, { recursive: true }).sort();

test('installing and uninstalling leaves nothing', () => {
  expect(install([])).toMatchObject({ status: 0, stderr: '' });
  expect(listing()).toEqual(
    expect.arrayContaining([
      'usr/lib/efs-agent/agent.cjs',
      'usr/share/man/man8/mount.efs.8',
      'etc/amazon/efs/efs-utils.conf',
    ]),
  );

  expect(install(['--uninstall'])).toMatchObject({ status: 0, stdout: '', stderr: '' });

  expect(listing()).toEqual([]);
});

test('what is installed runs with the node of the installation, and the unit names it', () => {
  install([]);

  const ended = spawnSync(join(root, 'usr/lib/efs-agent/mount-efs.cjs'), ['--version'], {
    encoding: 'utf8',
    env: {},
  });

  expect(ended).toMatchObject({ status: 0, stdout: expect.stringContaining(' Version: ') });
  const unit = readFileSync(join(root, 'usr/lib/systemd/system/efs-agent.service'), 'utf8');
  const [node, ...words] = /^ExecStart=(.*)$/m.exec(unit)![1]!.split(' ');
  expect(node).toMatch(/^\//);
  expect(words).toEqual([...smallHeap, '/usr/lib/efs-agent/agent.cjs']);
  expect(['mount', 'umount'].map((name) => readlinkSync(join(root, `sbin/${name}.efs`)))).toEqual([
    '/usr/lib/efs-agent/mount-efs.cjs',
    '/usr/lib/efs-agent/mount-efs.cjs',
  ]);
  expect(statSync(join(root, 'usr/lib/efs-agent/efs-agent.mjs')).mode & 0o777).toBe(0o755);
});

test('installing twice changes nothing, and uninstalling still leaves nothing', () => {
  install([]);
  const first = listing();

  expect(install([])).toMatchObject({ status: 0, stderr: '' });

  expect(listing()).toEqual(first);
  install(['--uninstall']);
  expect(listing()).toEqual([]);
});

test('a configuration file that was changed stays, and it is said', () => {
  install([]);
  const config = join(root, 'etc/amazon/efs/efs-utils.conf');
  appendFileSync(config, '# mine\n');
  install([]);

  const ended = install(['--uninstall']);

  expect(ended.stdout).toBe('install.sh: /etc/amazon/efs/efs-utils.conf was changed and stays\n');
  expect(readFileSync(config, 'utf8')).toContain('# mine');
});

test('a configuration file that was there before is left alone', () => {
  mkdirSync(join(root, 'etc/amazon/efs'), { recursive: true });
  writeFileSync(join(root, 'etc/amazon/efs/efs-utils.conf'), '# theirs\n');

  install([]);
  install(['--uninstall']);

  expect(readFileSync(join(root, 'etc/amazon/efs/efs-utils.conf'), 'utf8')).toBe('# theirs\n');
});

test('the mount.efs of another program is not replaced without --force, and comes back', () => {
  mkdirSync(join(root, 'sbin'));
  writeFileSync(join(root, 'sbin/mount.efs'), 'theirs');

  expect(install([])).toMatchObject({
    status: 1,
    stderr: expect.stringContaining('belongs to another program'),
  });
  expect(existsSync(join(root, 'usr'))).toBe(false);
  expect(install(['--force']).status).toBe(0);
  install(['--uninstall']);

  expect(readFileSync(join(root, 'sbin/mount.efs'), 'utf8')).toBe('theirs');
  expect(listing()).toEqual(['sbin', 'sbin/mount.efs']);
});

test('a node that is too old is refused before anything is written', () => {
  const bin = join(root, '..', `${root.split('/').at(-1)}-bin`);
  mkdirSync(bin);
  writeFileSync(
    join(bin, 'node'),
    `#!/bin/sh\ncase $1 in -p) echo "${bin}/node" ;; -v) echo v18.20.0 ;; *) exit 1 ;; esac\n`,
  );
  chmodSync(join(bin, 'node'), 0o755);

  const ended = install([], `${bin}:${process.env['PATH']}`);

  rmSync(bin, { recursive: true });
  expect(ended).toMatchObject({
    status: 1,
    stderr: 'install.sh: Node.js v18.20.0 is too old: efs-agent needs 20.19 or newer\n',
  });
  expect(listing()).toEqual([]);
});

test('uninstalling what is not installed is an error', () => {
  expect(install(['--uninstall'])).toMatchObject({
    status: 1,
    stderr: expect.stringContaining('efs-agent is not installed'),
  });
});
