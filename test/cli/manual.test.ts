import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { settings, settingsWithoutEffect } from '../../src/core/config.ts';
import { runMountHelper, runUmountHelper } from '../../src/helper/program.ts';
import { openHelperStage } from '../helper/stage.ts';

const read = (name: string) => readFileSync(new URL(`../../docs/${name}`, import.meta.url), 'utf8');
const migration = read('migration.md');

/** Every option of the reference's table that is not NFS's own: specification 1.5. */
const options = [
  ...[
    'tls',
    'notls',
    'iam',
    'accesspoint',
    'awsprofile',
    'awscredsuri',
    'rolearn',
    'jwtpath',
    'region',
    'az',
  ],
  ...[
    'crossaccount',
    'mounttargetip',
    'netns',
    'tlsport',
    'verify',
    'ocsp',
    'noocsp',
    'cafile',
    'stunnel',
    'azid',
  ],
  ...['nodirects3read', 'nos3readcache', 'capath', 'fsap', 'remount'],
];

test('every option stands in mount.efs(8) and, with its fate, in the migration page', () => {
  const page = read('man/mount.efs.8');
  const table = migration.split('## Options')[1]!.split('## ')[0]!;

  for (const option of options) {
    expect(page, option).toMatch(new RegExp(`^\\.It (Cm [^\\n]*)?\\b${option}\\b`, 'm'));
    expect(table, option).toContain(`\`${option}\``);
  }
});

test('every key that has an effect stands in efs-utils.conf(5), and none of ours that does not exist', () => {
  const page = read('man/efs-utils.conf.5');
  for (const { key } of Object.values(settings))
    expect(page, key).toMatch(new RegExp(`^\\.It Cm .*\\b${key}\\b`, 'm'));

  const ours = page.split('.Ss [agent]')[1]!.split('.Ss ')[0]!;
  const listed = [...ours.matchAll(/^\.It Cm (\S+)$/gm)].map((match) => match[1]);
  const known = Object.values(settings).filter(({ section }) => section === 'agent');
  expect(listed.toSorted()).toEqual(known.map(({ key }) => key).toSorted());
});

test('every key of the reference has its fate in the migration page', () => {
  const table = migration.split('## Configuration keys')[1]!;
  for (const { section, key } of [...Object.values(settings), ...settingsWithoutEffect]) {
    const whole = [`\`[${section}] ${key}\``, `\`[${section}]\` (all)`, `\`${key}\``];
    const shortened = `\`…${key.replace(/^retry_nfs_mount_command/, '')}\``;
    expect(
      [...whole, shortened].some((text) => table.includes(text)),
      `[${section}] ${key}`,
    ).toBe(true);
  }
});

test('every command and option of efs-agent stands in its man page', () => {
  // The completions know the commands by the table that parses them; test/cli/completion.test.ts compares them with --help.
  const script = readFileSync(new URL('../../dist/completions/efs-agent', import.meta.url), 'utf8');
  const lines = [...script.matchAll(/^ {6}([a-z-]+)\) mapfile .* -W "([^"]*)"/gm)];
  expect(lines.length).toBeGreaterThan(10);
  for (const [, command = '', options = ''] of lines) {
    const page = read(command === 'target' ? 'man/efs-agent-target.8' : 'man/efs-agent.8');
    if (command !== 'target') expect(page, command).toMatch(new RegExp(`^\\.It Cm ${command}\\b`, 'm'));
    const synopsis = page.slice(page.indexOf('.Sh SYNOPSIS'), page.indexOf('.Sh DESCRIPTION'));
    const usage =
      command === 'target'
        ? synopsis
        : synopsis.split(new RegExp(`^\\.Cm ${command}\\b`, 'm'))[1]!.split('.Nm')[0]!;
    for (const option of options.split(' ').filter((name) => name !== '-h' && name !== '--help')) {
      const name = option.replace(/^-/, '');
      const flag = name.length === 1 ? `\\.(Op |It )?Fl [a-z]*${name}[a-z]*` : `Fl ${name}`;
      expect(page, `${command} ${option}`).toMatch(new RegExp(`${flag}( |$)`, 'm'));
      const word = name.length === 1 ? `Fl [a-z]*${name}` : `(Fl|\\|) ${name}( |$)`;
      expect(usage, `${command} ${option}`).toMatch(new RegExp(word, 'm'));
    }
  }
});

test('every flag of mount.efs and umount.efs stands in its man page, in the synopsis and with what it does', async () => {
  const stage = openHelperStage();
  try {
    for (const [program, run] of [
      ['mount.efs', runMountHelper],
      ['umount.efs', runUmountHelper],
    ] as const) {
      const caller = stage.caller({ program });
      await run(['--help'], caller);
      const [, flags = ''] = / \[-([a-z]+)\]/.exec(caller.out)!;
      const page = read(`man/${program}.8`);

      expect(flags.length, program).toBeGreaterThan(3);
      expect(page).toContain(`.Op Fl ${flags}\n`);
      for (const flag of flags) expect(page, program).toMatch(new RegExp(`^\\.It Fl ${flag}$`, 'm'));
    }
  } finally {
    await stage.close();
  }
});
