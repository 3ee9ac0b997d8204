// What ./check needs from the machine, and what it must leave there: nothing but packages and the cache.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';

/** Distribution packages of the tests and linters; those of the virtual machine are scripts/vm's own business. */
const packages = [
  ['nfs-ganesha', 'the NFS server behind the local mount target'],
  ['nfs-ganesha-vfs', 'its access to local directories'],
  ['libnfs-utils', 'an NFS client in user space'],
  ['openssl', 'an independent reader of our certificates'],
  ['iproute2', 'ss shows listeners and connections'],
  ['psmisc', 'pstree and fuser show processes'],
  ['shellcheck', 'lints our shell scripts'],
  ['mandoc', 'lints our man pages'],
  ['zsh', 'loads our completions'],
  ['fish', 'loads our completions'],
  ['rpm', 'builds our .rpm and installs it into a root of its own'],
  ['zstd', 'unpacks our .deb for a look'],
  ['python3-prometheus-client', 'reads our metrics as OpenMetrics'],
  ['tmux', 'a terminal for what draws on one'],
  ['gcc', "compiles the two ends of the relay's load"],
  ['libc6-dev', "the C library's headers, for them"],
  ['libssl-dev', "OpenSSL's headers, for them"],
  ['strace', 'counts system calls where perf cannot'],
];

/** Services that these packages start, and that nobody has asked for. */
const unwantedUnits = {
  'nfs-ganesha': ['nfs-ganesha.service'],
  rpcbind: ['rpcbind.socket', 'rpcbind.service'],
};

/** Newest release of every other line that is supported; each exists for x64 and arm64. */
export const nodeLines = ['20.20.2', '22.23.3', '24.21.0', '26.10.0'];

/**
 * Installs the distribution packages that are missing, and says which and why.
 *
 * Errors: one sentence when they cannot be installed here.
 */
export function installPackages(say) {
  const missing = packages.filter(([name]) => !isInstalled(name));
  if (missing.length === 0) return 'all there';
  const names = missing.map(([name]) => name);
  if (!existsSync('/usr/bin/apt-get'))
    throw new Error(`missing, and there is no apt-get: ${names.join(', ')}`);
  if (process.getuid() !== 0)
    throw new Error(`missing; install them, or run this as root: ${names.join(', ')}`);
  for (const [name, why] of missing) say(`      installing ${name}: ${why}`);
  const foreign = Object.keys(unwantedUnits).filter(isInstalled);
  const options = ['-o', 'DPkg::Lock::Timeout=300', '-qq'];
  const run = (...words) =>
    execFileSync('apt-get', [...options, ...words], {
      env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
      stdio: ['ignore', 'ignore', 'pipe'],
      maxBuffer: 1 << 26,
    });
  run('update');
  run('install', '-y', '--no-install-recommends', ...names);
  for (const [name, units] of Object.entries(unwantedUnits)) if (!foreign.includes(name)) disable(units);
  return `installed ${names.join(', ')}`;
}

/** Says whether node_modules holds exactly what package-lock.json asks for on this machine. */
export function modulesAreCurrent() {
  const installedList = 'node_modules/.package-lock.json';
  if (!existsSync(installedList)) return false;
  const installed = readPackages(installedList);
  return Object.entries(readPackages('package-lock.json')).every(([path, wanted]) => {
    const found = installed[path];
    return path === '' || (found === undefined ? wanted.optional === true : found.version === wanted.version);
  });
}

/** Processes that carry this run's mark in their environment, or are ours and have lost their parent. */
export function findLeftProcesses(mark) {
  const left = [];
  for (const pid of readdirSync('/proc').filter(
    (name) => /^\d+$/.test(name) && Number(name) !== process.pid,
  )) {
    try {
      const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim();
      const parent = /\) \S (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1];
      const marked = readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0').includes(mark);
      const orphan = parent === '1' && command.includes(`${process.cwd()}/dist/`);
      if (command !== '' && (marked || orphan)) left.push(`process ${pid}: ${command.slice(0, 160)}`);
    } catch {
      // It is gone, or another user's.
    }
  }
  return left;
}

/** The mount points of this mount namespace. */
export function readMountPoints() {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '');
}

function readPackages(file) {
  return JSON.parse(readFileSync(file, 'utf8')).packages;
}

function isInstalled(name) {
  try {
    // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own format
    return execFileSync('dpkg-query', ['-W', '-f', '${db:Status-Abbrev}', name], {
      encoding: 'utf8',
      stdio: 'pipe',
    }).startsWith('ii');
  } catch {
    return false;
  }
}

function disable(units) {
  if (!existsSync('/usr/bin/systemctl') && !existsSync('/bin/systemctl')) return;
  // Without a running systemd only the links can be removed; nothing was started then.
  const now = existsSync('/run/systemd/system') ? ['--now'] : [];
  try {
    execFileSync('systemctl', ['--quiet', 'disable', ...now, ...units], { stdio: 'ignore' });
  } catch {
    // The package has no such unit in this release.
  }
}
