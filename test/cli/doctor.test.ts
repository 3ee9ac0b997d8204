import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { runCommandLine } from '../../src/cli/command-line.ts';
import { renderDiagnosis } from '../../src/cli/doctor.ts';
import type { Diagnosis, Result } from '../../src/doctor/diagnose.ts';
import { openHelperStage } from '../helper/stage.ts';
import { openTerminal } from '../support/terminal.ts';

const result = (check: string, layer: Result['layer'], changes: Partial<Result>): Result => ({
  check,
  layer,
  verdict: 'PASS',
  evidence: 'as it should be',
  fix: null,
  code: null,
  ...changes,
});

const diagnosis: Diagnosis = {
  verdict: 'FAIL',
  layer: 'tcp',
  results: [
    result('kernel-client', 'local', { evidence: 'Linux 6.1.0-13-cloud-amd64 has an NFS 4 client' }),
    result('clock', 'local', {
      verdict: 'WARN',
      evidence: '2026-11-25T15:52:55Z, not synchronized',
      fix: 'Start chronyd or systemd-timesyncd.',
    }),
    result('tcp', 'tcp', {
      verdict: 'FAIL',
      evidence: '10.1.1.6:2049 did not answer within 15000 ms',
      fix: 'Allow TCP 2049 from this instance to the mount target in its security group, and check the route.',
      code: 'target.silent',
    }),
    result('tls', 'tls', { verdict: 'SKIP', evidence: 'no connection to the mount target' }),
  ],
};

test('a diagnosis in 80 columns', () => {
  expect(renderDiagnosis(diagnosis, { outColumns: 80, environment: { NO_COLOR: '1' } })).toBe(
    `PASS  kernel-client  Linux 6.1.0-13-cloud-amd64 has an NFS 4 client
WARN  clock          2026-11-25T15:52:55Z, not synchronized
                     -> Start chronyd or systemd-timesyncd.
FAIL  tcp            10.1.1.6:2049 did not answer within 15000 ms
                     [target.silent]
                     -> Allow TCP 2049 from this instance to the mount target in
                        its security group, and check the route.
SKIP  tls            no connection to the mount target

1 failed, 1 warned, 1 passed, 1 skipped: begin with TCP, the connection to the
mount target
`,
  );
});

test('a diagnosis in 120 columns', () => {
  expect(renderDiagnosis(diagnosis, { outColumns: 120, environment: { NO_COLOR: '1' } })).toContain(
    `FAIL  tcp            10.1.1.6:2049 did not answer within 15000 ms [target.silent]
                     -> Allow TCP 2049 from this instance to the mount target in its security group, and check the
                        route.
`,
  );
});

test('the diagnosis in the README is laid out as such findings are', () => {
  const readme = readFileSync('README.md', 'utf8');
  const shown = /^PASS {2}specification[\s\S]*?(?=\n```)/m.exec(readme)![0];
  const findings = [...shown.matchAll(/^([A-Z]{4}) {2}(\S+) +(\S.*(?:\n {6,}\S.*)*)/gm)].map(
    ([, verdict, check = '', evidence = '']) =>
      result(check, 'local', {
        verdict: verdict as Result['verdict'],
        evidence: evidence.replaceAll(/\n +/g, ' '),
      }),
  );

  const text = renderDiagnosis(
    { verdict: 'PASS', layer: null, results: findings },
    { outColumns: 80, environment: { NO_COLOR: '1' } },
  );

  expect(findings).toHaveLength(7);
  expect(text.split('\n\n')[0]).toBe(shown);
});

test.each([80, 120])(
  'in a terminal of %i columns every finding begins in its column, and no word is broken',
  async (columns) => {
    const stage = openHelperStage();
    const terminal = openTerminal(columns, 60, { ...stage.environment, NO_COLOR: '1' });
    onTestFinished(async () => {
      terminal.close();
      await stage.close();
    });
    await terminal.wait(/^\$/m);

    terminal.type(`clear; ${process.execPath} ${resolve('dist/efs-agent.mjs')} doctor; echo ended with $?`);
    const shown = await terminal.wait(/^ended with \d$/m);

    const lines = shown.slice(
      shown.findIndex((line) => /^(PASS|WARN|FAIL|SKIP) /.test(line)),
      shown.indexOf(''),
    );
    const column = /^\S+ +\S+ +/.exec(lines.find((line) => line.includes('  specification  '))!)![0].length;
    // A word that is longer than its column, such as a path, is left to the terminal.
    for (const line of lines.filter((_, at) => (lines[at - 1] ?? '').length < columns))
      expect(line).toMatch(new RegExp(`^(?:[A-Z]{4} {2}\\S+ {2,}| {${column}}(?:-> | {3})?)\\S`));
    for (const line of lines.filter((one) => /^[A-Z]/.test(one)))
      expect(/^\S+ +\S+ +/.exec(line)![0]).toHaveLength(column);
    expect(shown.join('\n')).toMatch(/^\d+ failed, \d+ warned, \d+ passed, \d+ skipped/m);
  },
);

test('a terminal gets colours and no other control character, whatever is quoted', () => {
  const evil = { ...diagnosis, results: [result('dns', 'dns', { evidence: 'a\u001b[2Jb', fix: 'c\u0007' })] };

  const text = renderDiagnosis(evil, { outColumns: 80, environment: {} });

  expect(text).toContain('\u001b[32mPASS\u001b[39m  dns  a?[2Jb');
  expect(stripVTControlCharacters(text).replaceAll('\n', '')).not.toMatch(/\p{C}/u);
});

test('the command runs on any machine; its exit status is the worst verdict', async () => {
  const stage = openHelperStage();
  const caller = stage.caller({ program: 'efs-agent' });

  const status = await runCommandLine(['doctor', '--json'], caller);

  const { verdict, results } = JSON.parse(caller.out) as Diagnosis;
  expect(status).toBe({ PASS: 0, SKIP: 0, WARN: 1, FAIL: 2 }[verdict]);
  expect(new Set(results.map(({ check }) => check)).size).toBeGreaterThanOrEqual(18);
  await stage.close();
});

test('doctor --fstab looks at fstab alone; only root may ask', async () => {
  const stage = openHelperStage();
  const root = stage.caller({ program: 'efs-agent' });
  const other = stage.caller({ program: 'efs-agent', uid: 1_000 });

  await runCommandLine(['doctor', '--fstab', '--json'], root);

  const { results } = JSON.parse(root.out) as Diagnosis;
  expect(new Set(results.map(({ check }) => check))).toEqual(new Set(['fstab']));
  expect(await runCommandLine(['doctor'], other)).toBe(1);
  expect(other.error).toContain('[permission.not-root]');
  await stage.close();
});
