import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import stringWidth from 'string-width';
import { expect, test } from 'vitest';
import { renderFrame, type WatchView } from '../../src/cli/watch-frame.ts';
import { drawSparkline, WatchHistory } from '../../src/cli/watch-history.ts';
import type { MountReport, StatusReport } from '../../src/core/status-report.ts';
import { reportOf } from '../helper/stage.ts';

const nowMs = new Date(2026, 10, 23, 13, 2, 5).getTime();

function viewOf(report: StatusReport, changes: Partial<WatchView> = {}): WatchView {
  const history = new WatchHistory();
  history.note(report.mounts, 0);
  return {
    ...{ report, history, columns: 80, rows: 12, skipped: 0, order: 'opened', intervalMs: 2_000, nowMs },
    paint: (_colour, text) => text,
    ...changes,
  };
}

function reportOfMany(...mounts: Partial<MountReport>[]): StatusReport {
  const report = reportOf('/mnt/efs');
  return {
    ...report,
    startedAtMs: nowMs - 60_000,
    mounts: mounts.map((changes, at) => ({ ...report.mounts[0]!, mountId: `m${at}`, ...changes })),
  };
}

test('a frame of 80 columns', () => {
  const report = reportOfMany(
    { mountPoint: '/mnt/efs' },
    { mountPoint: '/var/lib/kubelet/pods/0f8/volumes/x/mount', state: 'stalled', oldestRequestMs: 75_000 },
  );

  expect(renderFrame(viewOf(report, { rows: 9 }))).toEqual([
    'efs-agent 0.1.0, pid 4711, up 1 min 0 s                      every 2 s  13:02:05',
    '1 mounted, 1 stalled, 4.00 KiB/s up, 256 KiB/s down, 6 in flight',
    '',
    'FILE SYSTEM     MOUNT POINT      STATE        UP/s   DOWN/s  WAITING       TREND',
    'fs-0123…bcdef0  /mnt/efs         mounted  2.00 KiB  128 KiB   3, 1 s           █',
    'fs-0123…bcdef0  /var/li…x/mount  stalled  2.00 KiB  128 KiB  3, 75 s           █',
    '',
    '',
    'q quit  s sort: opened  up/down scroll',
  ]);
});

test('the frame in the README is one that is drawn of such mounts', () => {
  const readme = readFileSync('README.md', 'utf8');
  const shown = /^efs-agent \S+, pid [\s\S]*?^q quit.*$/m.exec(readme)![0].split('\n');
  const rates = (share: number) => Math.round(share * 1_024);
  const mounts = [
    { mountPoint: '/mnt/efs', bytesUpPerSecond: 455, bytesDownPerSecond: 350 },
    { mountPoint: '/mnt/media', bytesUpPerSecond: rates(1.69), bytesDownPerSecond: rates(1.33) },
    { mountPoint: '/mnt/postgres/shared', bytesUpPerSecond: 0, bytesDownPerSecond: 0 },
  ];
  const report = reportOfMany(
    ...mounts.map((mount) => ({ ...mount, requestsInFlight: 0, oldestRequestMs: 0 })),
  );

  const drawn = renderFrame(viewOf(report, { rows: shown.length, intervalMs: 1_000 }));

  // All but what changes from one second to the next: process, times and the course of the rates.
  const steady = (line: string) =>
    line
      .replace(/pid \d+, up .*? s /, 'pid N, up N s ')
      .replace(/ +every/, ' every')
      .replace(/[\d:]{8}$/, 'TIME')
      .replace(/ +[▁-█]+$/, ' TREND')
      .replace(/^(3 mounted).*/, '$1');
  expect(shown.map(steady)).toEqual(drawn.map(steady));
});

test('from 110 columns on the address is there, and ids are whole', () => {
  const [, , , titles, row] = renderFrame(viewOf(reportOfMany({}), { columns: 120 }));

  expect(titles).toMatch(/^FILE SYSTEM +MOUNT POINT +ADDRESS +STATE/);
  expect(row).toMatch(/^fs-0123456789abcdef0 {2}\/mnt\/efs +10\.1\.1\.6 +mounted/);
});

test('every frame has a line for each row of the terminal, and none is wider than it', () => {
  const mount = fc.record({
    mountPoint: fc.string({ unit: 'grapheme', maxLength: 100 }),
    state: fc.constantFrom('mounted' as const, 'reconnecting' as const),
    bytesUpPerSecond: fc.nat(),
  });
  const size = fc.record({
    columns: fc.integer({ min: 76, max: 200 }),
    rows: fc.integer({ min: 7, max: 60 }),
  });
  fc.assert(
    fc.property(
      fc.array(mount, { maxLength: 80 }),
      size,
      fc.nat(80),
      (mounts, { columns, rows }, skipped) => {
        const lines = renderFrame(viewOf(reportOfMany(...mounts), { columns, rows, skipped }));

        expect(lines).toHaveLength(rows);
        for (const line of lines) expect(stringWidth(line)).toBeLessThanOrEqual(columns);
      },
    ),
  );
});

test('more mounts than rows are scrolled, or the busiest come first', () => {
  const mounts = Array.from({ length: 50 }, (_, at) => ({ mountPoint: `/mnt/${at}`, bytesUpPerSecond: at }));
  const report = reportOfMany(...mounts);

  const scrolled = renderFrame(viewOf(report, { skipped: 10 }));
  const busiest = renderFrame(viewOf(report, { order: 'busiest' }));

  expect(scrolled[4]).toContain(' /mnt/10 ');
  expect(scrolled.at(-1)).toMatch(/11-17 of 50$/);
  expect(busiest[4]).toContain(' /mnt/49 ');
});

test('rates are those between two samples, and a tunnel that was opened anew begins anew', () => {
  const history = new WatchHistory();
  const sample = (bytesUp: number) =>
    reportOfMany({ bytesUp, bytesDown: 0, bytesUpPerSecond: 7, bytesDownPerSecond: 0 }).mounts;

  history.note(sample(1_000), 0);
  history.note(sample(5_000), 2_000);
  history.note(sample(0), 4_000);

  expect(history.ratesOf('m0').map(({ up }) => up)).toEqual([7, 2_000, 7]);
  history.note([], 6_000);
  expect(history.ratesOf('m0')).toEqual([]);
});

test('a sparkline is as wide as asked, its newest value on the right, its highest at the top', () => {
  expect(drawSparkline([0, 50, 100], 5)).toBe('  ▁▅█');
  expect(drawSparkline([9, 0, 0], 2)).toBe('▁▁');
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 0, max: 1e12, noNaN: true })),
      fc.integer({ min: 1, max: 40 }),
      (values, width) => {
        expect(drawSparkline(values, width)).toMatch(new RegExp(`^[ ▁▂▃▄▅▆▇█]{${width}}$`, 'u'));
      },
    ),
  );
});
