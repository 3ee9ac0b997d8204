import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createTemporaryDirectory } from '../support/temporary-directory.ts';

// test/kernel/scenes.test.ts shows status 0, with real mounts; here no mount is made, and so everything differs.

let directory: string;
let calls: string;
beforeEach(() => {
  directory = createTemporaryDirectory();
  mkdirSync(join(directory, 'bin'));
  calls = join(directory, 'calls');
  writeFileSync(calls, '');
  standIn('mkdir', 'exit 0');
  standIn('mountpoint', 'exit 1');
  standIn('mount', 'echo "mount: nothing is mounted here" >&2; exit 32');
  standIn('umount', 'exit 32');
  standIn('getent', 'echo "10.1.1.6 STREAM fs"');
  standIn('ip', 'echo "10.1.1.6 via 10.1.1.1 dev eth0 src 10.1.1.10 uid 0"');
  standIn('ss', 'exit 0');
  standIn('efs-agent', `echo '{"mounts":[]}'`);
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

function standIn(name: string, body: string): void {
  writeFileSync(join(directory, 'bin', name), `#!/bin/sh\n${body}\n`);
  chmodSync(join(directory, 'bin', name), 0o755);
}

/** A policy that is set is written down whole, so that the last one can be looked at. */
const aws = (status: number) => `printf '%s\\n' "$1 $2" >>"$CALLS"
for word; do case $word in file://*) cat "\${word#file://}" >>"$CALLS"; echo >>"$CALLS" ;; esac; done
[ "$1" != cloudtrail ] || echo '{"Events":[]}'
exit ${status}`;

/** As root in a mount namespace of its own: nothing of this machine is mounted, removed, or dropped from its memory. */
async function replay() {
  const program = [
    process.execPath,
    resolve('contrib/cdk/replay.mjs'),
    ...['--region', 'us-east-1', '--file-system', 'fs-0123456789abcdef0', '--settle', '0', '--events', '0'],
    ...['--role', 'arn:aws:iam::111122223333:role/efs-client'],
    ...['--access-point', 'fsap-0123456789abcdef0=1000', '--access-point', 'fsap-0123456789abcdef1=1001'],
  ];
  const prepare = `mount --bind /dev/null /proc/sys/vm/drop_caches
    if [ -d /mount ]; then mount -t tmpfs none /mount; fi
    PATH=$BIN:$PATH exec "$@"`;
  const child = spawn('unshare', ['-m', 'sh', '-ec', prepare, 'sh', ...program], {
    env: { ...process.env, BIN: join(directory, 'bin'), CALLS: calls },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = once(child, 'exit');
  const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
  const [status] = await ended;
  return { status, stdout, stderr, calls: readFileSync(calls, 'utf8') };
}

const isRoot = process.getuid?.() === 0;
const notHere = 'not here: only root can replay';
const wholePolicy =
  /"elasticfilesystem:ClientMount","elasticfilesystem:ClientRootAccess","elasticfilesystem:ClientWrite"/;

test('a replay that sees something else says what as a diff, ends with 1, and leaves the policy as it was', async ({
  skip,
}) => {
  skip(!isRoot, notHere);
  standIn('aws', aws(0));

  const replayed = await replay();

  expect(replayed.status, replayed.stderr).toBe(1);
  expect(replayed.stdout).toContain('mount: nothing is mounted here\nstatus 32\n');
  expect(replayed.stderr).toContain('--- local mount target\n+++ here\n');
  expect(replayed.stderr).toContain('+mount: nothing is mounted here\n');
  expect(replayed.stderr).toMatch(/^-\{"identity":\{"type":"AssumedRole"/m);
  expect(replayed.calls).toContain('efs delete-file-system-policy\n');
  const policies = replayed.calls.split('\n').filter((line) => line.startsWith('{'));
  expect(policies.length).toBeGreaterThan(4);
  expect(policies.at(-1)).toMatch(wholePolicy);
  expect(policies.at(-1)).not.toContain('AccessPointArn');
}, 120_000);

test.for<readonly [when: string, refuse: string, leastCalls: number]>([
  ['from the beginning', 'exit 254', 1],
  ['once it has begun', '[ "$(wc -l <"$CALLS")" -lt 4 ] || exit 254', 3],
])(
  'a replay that may not set the policy %s ends with 2, says which command failed, and shows no stack',
  { timeout: 120_000 },
  async ([, refuse, leastCalls], { skip }) => {
    skip(!isRoot, notHere);
    standIn('aws', `${aws(0).replace('exit 0', '')}\necho AccessDenied >&2\n${refuse}`);

    const replayed = await replay();

    expect(replayed.status).toBe(2);
    expect(replayed.stderr).toMatch(/^replay: aws efs \S+-file-system-policy .*: status 254\nAccessDenied/m);
    expect(replayed.stderr).not.toMatch(/\n\s+at /);
    expect(replayed.calls.match(/^efs /gm)!.length).toBeGreaterThanOrEqual(leastCalls);
  },
);
