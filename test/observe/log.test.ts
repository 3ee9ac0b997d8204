import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { events } from '../../src/core/events.ts';
import { formatLine } from '../../src/observe/log.ts';

const folder = mkdtempSync(join(tmpdir(), 'efs-agent-log-'));
const logBundle = join(folder, 'log.cjs');
const value = fc.oneof(fc.string({ unit: 'binary' }), fc.integer(), fc.boolean(), fc.constant(null));
const fields = fc.dictionary(fc.stringMatching(/^[a-z][a-zA-Z0-9]{0,11}$/), value, { noNullPrototype: true });

beforeAll(() =>
  build({
    entryPoints: ['src/observe/log.ts'],
    outfile: logBundle,
    bundle: true,
    platform: 'node',
    format: 'cjs',
  }),
);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What a program that logs writes to its standard streams. */
function writeLog(
  level: string,
  environment: NodeJS.ProcessEnv,
): Promise<{ stdout: string; stderr: string }> {
  const program = `const clock = { nowMs: Date.now, schedule: () => ({ cancel() {} }) };
    const { log } = require(process.argv[1]).openLog(process.argv[2], process.env, clock);
    log('error', 'mount.failed', { mountId: 'a', reason: 'two\\nlines' });
    log('warn', 'worker.slow'); log('info', 'mount.added', { port: 20049 }); log('debug', 'session.opened');`;
  const env = { PATH: process.env['PATH'], ...environment };
  return promisify(execFile)(process.execPath, ['-e', program, logBundle, level], { env });
}

test('a log line is always one line without control characters, whatever a peer sent', () => {
  fc.assert(
    fc.property(fields, (given) => {
      const line = formatLine('session.ended', given);

      expect(line).not.toMatch(/[\p{Cc}\p{Zl}\p{Zp}]/u);
      expect(line).toMatch(/^session\.ended( |$)/);
    }),
  );
});

test('every field can be read back from a log line', () => {
  fc.assert(
    fc.property(fc.string(), fc.integer(), (text, number) => {
      const line = formatLine('event', { text, number, absent: null });

      const match = /^event text=(.*) number=(-?\d+)$/.exec(line);
      const shown = match![1]!;
      expect(shown.startsWith('"') ? JSON.parse(shown) : shown).toBe(text.replace(/\u007f/g, '?'));
      expect(Number(match![2])).toBe(number);
    }),
  );
});

test('plain values stand unquoted, values with blanks or quotes as JSON strings', () => {
  expect(formatLine('mount.added', { mountPoint: '/mnt/efs', port: 20049, why: 'a "b" c', empty: '' })).toBe(
    'mount.added mountPoint=/mnt/efs port=20049 why="a \\"b\\" c" empty=""',
  );
});

test('the log goes to standard error, a line for each event with time and level', async () => {
  const { stdout, stderr } = await writeLog('info', {});

  expect(stdout).toBe('');
  const lines = stderr.trimEnd().split('\n');
  expect(lines.map((line) => line.replace(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z /, ''))).toEqual([
    'error mount.failed mountId=a reason="two\\nlines"',
    'warn  worker.slow',
    'info  mount.added port=20049',
  ]);
});

test.each(['a pipe that nobody reads any more', 'a disk that is full'])(
  'a log into %s is lost, and the program that logs goes on',
  async (where) => {
    const program = `const clock = { nowMs: Date.now, schedule: () => ({ cancel() {} }) };
      const { log } = require(process.argv[1]).openLog('info', process.env, clock);
      let left = 5;
      process.stdin.once('data', () => setInterval(() => {
        log('warn', 'worker.slow');
        if (--left === 0) { console.log('still here'); process.exit(0); }
      }, 5));`;
    const full = where.includes('disk') ? openSync('/dev/full', 'w') : null;
    const child = spawn(process.execPath, ['-e', program, logBundle], {
      stdio: ['pipe', 'pipe', full ?? 'pipe'],
    });
    if (full === null) child.stderr!.destroy();
    else closeSync(full);
    const ended = once(child, 'exit');

    child.stdin!.write('begin\n');

    expect(await text(child.stdout!)).toBe('still here\n');
    expect(await ended).toEqual([0, null]);
  },
);

test('while nobody reads the log its lines take no memory without end, and who reads on is told how many were lost', async () => {
  const program = `const clock = { nowMs: Date.now, schedule: () => ({ cancel() {} }) };
    const { log } = require(process.argv[1]).openLog('debug', process.env, clock);
    for (let line = 0; line < 100000; line += 1) log('debug', 'session.opened', { line });
    console.log(process.stderr.writableLength);
    process.stderr.once('drain', () => log('info', 'mount.added'));`;
  const child = spawn(process.execPath, ['-e', program, logBundle], { stdio: ['ignore', 'pipe', 'pipe'] });

  const [waitingBytes] = await once(child.stdout, 'data');
  const lines = (await text(child.stderr)).trimEnd().split('\n');

  expect(Number(waitingBytes)).toBeLessThan(1.1 * 1024 ** 2);
  const shown = lines.filter((line) => line.includes('session.opened')).length;
  expect(shown).toBeGreaterThan(1_000);
  expect(lines.slice(shown).map((line) => line.replace(/^\S+ /, ''))).toEqual([
    `warn  log.lines-lost count=${100_000 - shown}`,
    'info  mount.added',
  ]);
});

test('under systemd a line carries its priority and no time', async () => {
  const { stderr } = await writeLog('debug', { JOURNAL_STREAM: '8:1' });

  expect(stderr.trimEnd().split('\n')).toEqual([
    '<3>mount.failed mountId=a reason="two\\nlines"',
    '<4>worker.slow',
    '<6>mount.added port=20049',
    '<7>session.opened',
  ]);
});

/** Runs a script with the log of this version, under a journal, with a stand-in for logger(1). */
async function runUnderJournal(
  script: string,
  logger: string,
): Promise<{ stderr: string; entries: string[] }> {
  const bin = mkdtempSync(join(folder, 'bin-'));
  writeFileSync(join(bin, 'logger'), `#!/bin/sh\n${logger}\n`, { mode: 0o755 });
  const program = `let due = []; const clock = { nowMs: Date.now, schedule: (ms, run) => { due.push(run); return { cancel() {} }; } };
    const opened = require(process.argv[1]).openLog('info', process.env, clock); const { log } = opened;
    const endWindow = () => { for (const run of due.splice(0)) run(); };
    ${script}
    opened.close();`;
  const env = { PATH: `${bin}:${process.env['PATH']}`, JOURNAL_STREAM: '8:1' };
  const { stderr } = await promisify(execFile)(process.execPath, ['-e', program, logBundle], { env });
  const out = join(bin, 'entries');
  const written = existsSync(out) ? readFileSync(out, 'utf8') : '';
  return { stderr, entries: written.split('--\n').filter(Boolean) };
}

test('in the journal a notable event is an entry with its message id and a field for each value', async () => {
  const { stderr, entries } = await runUnderJournal(
    `log('info', 'mount.done', { tunnel: 't', mountPoint: '/mnt/a\\nPRIORITY=0', port: 20049, nothing: null });
     log('warn', 'worker.misspoke'); log('info', 'session.accepted');`,
    'test "$*" = --journald && { cat; echo --; } >>"$(dirname "$0")/entries"',
  );

  expect(stderr).toBe('<6>session.accepted\n');
  expect(entries.map((entry) => entry.replace(/OBJECT_PID=\d+/, 'OBJECT_PID=1'))).toEqual([
    [
      'MESSAGE=mount.done tunnel=t mountPoint="/mnt/a\\nPRIORITY=0" port=20049',
      `MESSAGE_ID=${events['mount.done'].messageId}`,
      ...['PRIORITY=6', 'SYSLOG_IDENTIFIER=efs-agent', 'OBJECT_PID=1', 'EFS_EVENT=mount.done'],
      ...['EFS_TUNNEL=t', 'EFS_MOUNT_POINT=/mnt/a?PRIORITY=0', 'EFS_PORT=20049', ''],
    ].join('\n'),
    expect.stringContaining('PRIORITY=4\n'),
  ]);
});

test('where logger cannot write to the journal, every line is there all the same', async () => {
  const { stderr } = await runUnderJournal(
    `log('info', 'mount.done', { port: 1 }); log('error', 'worker.lost'); log('info', 'agent.ready');`,
    'exit 1',
  );

  expect(stderr.split('\n').filter(Boolean).sort()).toEqual([
    '<3>worker.lost',
    '<4>log.journal-lost why="logger --journald ended with status 1"',
    '<6>agent.ready',
    '<6>mount.done port=1',
  ]);
});

test('a line that repeats itself is written five times, and at the end once with how often it came', async () => {
  const { stderr } = await runUnderJournal(
    `for (let at = 0; at < 12; at++) log('info', 'session.accepted', { tunnel: 't', session: at }); endWindow();
     log('info', 'session.accepted', { tunnel: 't', session: 99 });`,
    'exit 1',
  );

  expect(stderr.trimEnd().split('\n')).toEqual([
    ...[0, 1, 2, 3, 4].map((at) => `<6>session.accepted tunnel=t session=${at}`),
    '<6>session.accepted tunnel=t session=11 repeated="7 times"',
    '<6>session.accepted tunnel=t session=99',
  ]);
});

test('the level changes at run time and goes back by itself; at debug nothing is held back', async () => {
  const { stderr } = await runUnderJournal(
    `log('debug', 'identity.started', { pid: 1 }); opened.setLevel('debug', 60000);
     for (let at = 0; at < 9; at++) log('debug', 'identity.started', { pid: 2 });
     if (opened.level().untilMs < Date.now()) throw 'no end'; endWindow(); log('debug', 'identity.started', { pid: 3 });`,
    'exit 1',
  );

  expect(stderr.match(/identity\.started pid=\d/g)).toEqual(Array(9).fill('identity.started pid=2'));
  expect(stderr).toMatch(/log-level\.changed from=info to=debug until=20/);
  expect(stderr).toContain('log-level.changed from=debug to=info\n');
});
