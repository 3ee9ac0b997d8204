import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTemporaryDirectory } from '../support/temporary-directory.ts';

let directory = '';
beforeAll(() => {
  directory = createTemporaryDirectory();
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

test('earlier runs of the chaos bench make one table, each told with its day, its load and what broke in it', () => {
  const first = writeRun('first.json', {
    startedAt: '2026-01-02T03:04:05.678Z',
    loadAverages: [1.26, 0.5],
    rounds: 2,
    totals: { operations: 100, failed: 0, bytesChecked: 3e9, bytesWrong: 0 },
    breaches: ['worker-kill, round 2: a pause of 1500 ms on top, 1000 are allowed'],
    results: [result('worker-kill', 1, 200), result('worker-kill', 2, 1500), result('none', 1, 100)],
  });
  const second = writeRun('second.json', {
    startedAt: '2026-01-03T00:00:00.000Z',
    ended: false,
    totals: { operations: 11, failed: 0, bytesChecked: 1e9, bytesWrong: 0 },
    results: [result('worker-kill', 1, 300)],
  });
  const page = join(directory, 'page.md');
  writeFileSync(page, 'By hand.\n');
  const both = join(directory, 'both.json');

  const printed = chaos('--before', first, '--before', second, '--markdown', page, '--json', both);

  expect(printed.status).toBe(1);
  expect(printed.stdout).toMatch(
    /\| worker SIGKILL +\| +\| +3 \| +6\.0 \| +0 \| +0 \| +0 \| +0\.3 s \| 1\.5 s \| +0\.3 s \| 1\.5 s \| +1\.0 s \|/,
  );
  expect(printed.stdout).toMatch(/\| none, for comparison +\| +\| +1 \| +2\.0 \|/);
  expect(printed.stdout).toContain(
    'broken: run 1, worker-kill, round 2: a pause of 1500 ms on top, 1000 are allowed\n' +
      '3 whole rounds in 2 runs: 4 faults, 111 operations, 4.00 GB checked: 1 breaches\n',
  );
  const text = readFileSync(page, 'utf8');
  expect(text).toMatch(/^By hand\.\n/);
  expect(text).toContain(
    '- `npm run chaos` on 2026-01-02 03:04 UTC, Node 20.1.2, 2 processors, load average 0.5 to 1.3: 2 whole rounds, 3 faults.\n' +
      '- `npm run chaos` on 2026-01-03 00:00 UTC, Node 20.1.2, 2 processors, load average 1.0: 1 whole round, 1 faults; it was cut off,',
  );
  expect(text).toContain('- run 1, worker-kill, round 2: a pause of 1500 ms');
  expect(chaos('--before', both).stdout).toBe(printed.stdout);
  expect(
    readFileSync(both, 'utf8')
      .split('\n')
      .filter((line) => line.includes('"fault"')),
  ).toHaveLength(4);
});

test.each([
  ['a run that is given twice', {}, ['--before', 'FILE', '--before', 'FILE'], /is there twice/],
  ['a short run beside a long one', { short: true }, ['--before', 'FILE'], /short and long runs/],
  [
    'a fault that there is no more',
    { results: [result('flood', 1, 1)] },
    ['--before', 'FILE'],
    /no fault flood/,
  ],
  ['a file of something else', { results: null }, ['--before', 'FILE'], /not what --json writes/],
])('%s makes no table', (_title, facts, options, complaint) => {
  const file = writeRun('wrong.json', facts);

  const { status, stdout, stderr } = chaos(...options.map((word) => (word === 'FILE' ? file : word)));

  expect(status).toBe(1);
  expect(stdout).toBe('');
  expect(stderr).toMatch(complaint);
});

function chaos(...options: string[]) {
  const argv = ['bench/chaos/chaos.mjs', '--rounds', '0', ...options];
  return spawnSync(process.execPath, argv, { encoding: 'utf8' });
}

function writeRun(name: string, facts: object): string {
  const run = {
    command: 'npm run chaos',
    startedAt: '2026-01-01T00:00:00.000Z',
    node: '20.1.2',
    processors: 2,
    short: false,
    loadAverages: [1],
    ended: true,
    rounds: 1,
    totals: { operations: 0, failed: 0, bytesChecked: 0, bytesWrong: 0 },
    breaches: [],
    results: [],
    ...facts,
  };
  const file = join(directory, name);
  writeFileSync(file, JSON.stringify({ runs: [run] }));
  return file;
}

function result(fault: string, round: number, pauseMs: number) {
  return {
    fault,
    round,
    lengthMs: 0,
    longestMs: pauseMs,
    addedMs: pauseMs,
    bytesChecked: 2_000_000,
    bytesWrong: 0,
    failed: 0,
    refused: 0,
  };
}
