import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
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
  const program = `const log = require(process.argv[1]).openLog(process.argv[2], process.env);
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

test('under systemd a line carries its priority and no time', async () => {
  const { stderr } = await writeLog('debug', { JOURNAL_STREAM: '8:1' });

  expect(stderr.trimEnd().split('\n')).toEqual([
    '<3>mount.failed mountId=a reason="two\\nlines"',
    '<4>worker.slow',
    '<6>mount.added port=20049',
    '<7>session.opened',
  ]);
});
