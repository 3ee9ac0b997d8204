import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const unit = readFileSync('systemd/efs-agent.service', 'utf8');
const hasSystemd = spawnSync('systemd-analyze', ['--version']).status === 0;
const missing = 'not here: this machine has no systemd-analyze';

/** The sets of systemd, by name, with everything in them. */
function readSets(): Map<string, string[]> {
  const sets = new Map<string, string[]>();
  let current: string[] = [];
  for (const line of execFileSync('systemd-analyze', ['syscall-filter', '--no-pager'], {
    encoding: 'utf8',
  }).split('\n')) {
    if (line.startsWith('@')) {
      current = [];
      sets.set(line.trim(), current);
    } else if (/^ +[@a-z]/.test(line)) current.push(line.trim());
  }
  return sets;
}

/** What the filter lets through, as systemd.exec(5) says: later lines add to the first, and `~` takes away. */
function listAllowed(): Set<string> {
  const sets = readSets();
  const expand = (word: string): string[] => (sets.has(word) ? sets.get(word)!.flatMap(expand) : [word]);
  const allowed = new Set(expand('@default'));
  for (const [, not, words] of unit.matchAll(/^SystemCallFilter=(~?)(.*)$/gm))
    for (const call of words!.split(' ').flatMap(expand))
      if (not === '~') allowed.delete(call);
      else allowed.add(call);
  return allowed;
}

test('the system call filter lets through every call that a traced run made', ({ skip }) => {
  skip(!hasSystemd, missing);
  const allowed = listAllowed();
  const traced = readFileSync('test/golden/system-calls.txt', 'utf8').split('\n').filter(Boolean);

  expect(traced.length).toBeGreaterThan(80);
  expect(traced.filter((call) => !allowed.has(call))).toEqual([]);
});

test('what only a break-in would call is not let through', ({ skip }) => {
  skip(!hasSystemd, missing);
  const allowed = listAllowed();
  const unwanted = [
    'ptrace',
    'bpf',
    'mount',
    'umount2',
    'init_module',
    'kexec_load',
    'reboot',
    'swapon',
    'chroot',
    'pivot_root',
    'unshare',
    'setns',
    'perf_event_open',
    'keyctl',
    'add_key',
    'chown',
    'mknod',
    'open_by_handle_at',
    'settimeofday',
    'iopl',
  ];

  expect(unwanted.filter((call) => allowed.has(call))).toEqual(
    ['unshare', 'setns', 'mknod'].filter((call) => allowed.has(call)),
  );
  // These three are in the set of ordinary calls; other lines of the unit forbid what they could do.
  expect(unit).toMatch(/^RestrictNamespaces=yes$/m);
  expect(unit).toMatch(/^PrivateDevices=yes$/m);
});

test('systemd finds the service no more exposed than 2.5 of 10', ({ skip }) => {
  skip(!hasSystemd, missing);

  const { status, stdout } = spawnSync(process.execPath, ['scripts/check-unit.mjs'], { encoding: 'utf8' });

  expect(stdout).toMatch(/^exposure \d\.\d of at most 2\.5\n$/);
  expect(status).toBe(0);
});

test('the service has the capabilities that its comments explain, and no others', () => {
  expect(/^CapabilityBoundingSet=(.*)$/m.exec(unit)![1]!.split(' ')).toEqual([
    'CAP_SETUID',
    'CAP_SETGID',
    'CAP_KILL',
    'CAP_DAC_READ_SEARCH',
  ]);
});
