import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runMountHelper, runUmountHelper } from '../../src/helper/program.ts';
import { openHelperStage } from './stage.ts';

const bundle = resolve(import.meta.dirname, '../../dist/mount-efs.cjs');
let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'efs-invocation-'));
  for (const name of ['mount.efs', 'umount.efs']) symlinkSync(bundle, join(directory, name));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function run(name: string, ...argv: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(directory, name), ...argv], {
    encoding: 'utf8',
    env: { PATH: '/nowhere', EFS_AGENT_RUNTIME_DIR: join(directory, 'run') },
    timeout: 20_000,
  });
  return { status, stdout, stderr };
}

const fs = 'fs-0123456789abcdef0';
const usage = 'Usage: mount.efs <file system>[:/path] <directory> [-fnsv] [-o <options>]';

test.each([
  [[], 1, `mount.efs: expected a file system and a directory, got nothing [usage]\n  ${usage}\n`],
  [[fs, '/', '--bogus'], 1, `mount.efs: unknown option --bogus [usage]\n  ${usage}\n`],
  [[fs, '/', '-o'], 1, `mount.efs: option -o needs a value [usage]\n  ${usage}\n`],
  [
    ['FS-0', '/', '-o', 'tls'],
    1,
    /^mount\.efs: "FS-0" is not a file system id: write its letters in lower case \[spec\.malformed\]\n {2}Write fs-/,
  ],
  [
    [fs, '/', '-o', 'tls,port=2'],
    1,
    /^mount\.efs: The "port" and "tls" options are mutually exclusive \[option\.conflict\]\n/,
  ],
  [
    [fs, '/', '-o', 'iam'],
    1,
    /^mount\.efs: The "tls" option is required when mounting via "iam" \[option\.requires\]\n/,
  ],
  [
    [fs, '/', '-o', 'tls,capath=/x'],
    1,
    /^mount\.efs: Unsupported mount options detected: "capath" \[option\.unsupported\]\n/,
  ],
  [
    [fs, '/', '-o', 'tls,accesspoint=fsap-1'],
    1,
    /^mount\.efs: Access Point ID fsap-1 is malformed \[access-point\.malformed\]\n/,
  ],
  [
    [fs, '/', '-o', 'tls,tlsport=x'],
    1,
    /^mount\.efs: tlsport option x is not an integer \[option\.malformed\]\n/,
  ],
  [
    [fs, '/', '-o', 'tls,region=X'],
    1,
    /^mount\.efs: Invalid "region" mount option specified: X \[region\.malformed\]\n/,
  ],
  [
    [fs, '/no/such', '-o', 'tls'],
    32,
    'mount.efs: mount point /no/such does not exist [mountpoint.missing]\n  Create the directory first: mkdir -p <directory>.\n',
  ],
  [
    [fs, '/etc/passwd', '-o', 'tls'],
    32,
    'mount.efs: mount point /etc/passwd is not a directory [mountpoint.not-directory]\n  Name a directory as the mount point.\n',
  ],
] as [string[], number, string | RegExp][])(
  'mount.efs %j fails with one line and one hint',
  (argv, status, stderr) => {
    const ended = run('mount.efs', ...argv);

    expect(ended).toMatchObject({ status, stdout: '' });
    if (typeof stderr === 'string') expect(ended.stderr).toBe(stderr);
    else expect(ended.stderr).toMatch(stderr);
  },
);

test.each(['mount.efs', 'umount.efs'])('%s --help and --version answer on standard output', (name) => {
  expect(run(name, '--help')).toMatchObject({
    status: 0,
    stderr: '',
    stdout: expect.stringMatching(`^Usage: ${name} `),
  });
  expect(run(name, '-h').status).toBe(0);
  expect(run(name, '--version')).toMatchObject({
    status: 0,
    stderr: '',
    stdout: expect.stringMatching(`^${name} Version: \\d+\\.`),
  });
});

test('only root can mount and unmount', async () => {
  const stage = openHelperStage();
  const caller = stage.caller({ uid: 1_000 });

  const statuses = [
    await runMountHelper([fs, '/', '-o', 'tls'], caller),
    await runUmountHelper(['/'], caller),
  ];

  expect(statuses).toEqual([1, 1]);
  expect(caller.error).toContain('only root can run mount.efs [permission.not-root]');
  await stage.close();
});

const word = fc.oneof(
  fc.constantFrom(
    '-o',
    '-f',
    '-v',
    '-n',
    '-s',
    '-N',
    '-t',
    '--',
    '-',
    '',
    '-l',
    '--help',
    fs,
    `${fs}:`,
    `${fs}:/a`,
    'tls',
    'tls,iam',
    '/no/such',
  ),
  fc.constantFrom(
    '__proto__',
    'constructor',
    '-o__proto__=1',
    'tls,hasOwnProperty',
    'a=b=c',
    '"',
    ',',
    '=',
    '\u0000',
    '\n',
    '\u001b[31m',
  ),
  fc.string({ maxLength: 12 }),
  fc.string({ unit: 'binary', maxLength: 12 }),
);
const shape = /^mount\.efs: [^\n]* \[[a-z-]+(?:\.[a-z-]+)?\]\n {2}\S/;

test('no command line makes the helpers show a stack trace or end without a word', async () => {
  const stage = openHelperStage();
  await fc.assert(
    fc.asyncProperty(fc.array(word, { maxLength: 7 }), fc.boolean(), async (argv, mounting) => {
      // Not root: what is well formed ends there, and every other way of failing is before it.
      const caller = stage.caller({ uid: 1_000 });

      const status = await (mounting ? runMountHelper : runUmountHelper)(argv, caller);

      if (status === 0) expect(caller.out).not.toBe('');
      else {
        expect(caller.error).toMatch(shape);
        expect(status).toBe(1);
      }
      expect(caller.error).not.toMatch(/\n\s+at |\[internal\]/);
    }),
    { numRuns: 2_000 },
  );
  await fc.assert(
    fc.asyncProperty(
      fc.string({ maxLength: 20 }),
      fc.array(word, { maxLength: 4 }),
      async (device, options) => {
        const caller = stage.caller();

        const status = await runMountHelper([device, '/no/such/directory', '-o', options.join(',')], caller);

        expect([0, 1, 32]).toContain(status);
        expect(caller.error).not.toMatch(/\n\s+at |\[internal\]/);
      },
    ),
    { numRuns: 100 },
  );
  await stage.close();
}, 60_000);

test.each(['mount.efs', 'umount.efs'])(
  'the real %s behaves the same on random command lines',
  (name) => {
    const started = new RegExp(shape.source.replace('mount', name === 'mount.efs' ? 'mount' : 'umount'));
    fc.assert(
      fc.property(
        fc.array(
          word.filter((one) => !one.includes('\0')),
          { maxLength: 6 },
        ),
        (argv) => {
          const { status, stderr } = run(name, ...argv);

          expect([0, 1, 32]).toContain(status);
          if (status !== 0) expect(stderr).toMatch(started);
          expect(stderr).not.toMatch(/\n\s+at /);
        },
      ),
      { numRuns: 24 },
    );
  },
  60_000,
);
