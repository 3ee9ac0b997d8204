import { afterEach, beforeEach, expect, test } from 'vitest';
import { runCommandLine } from '../../src/cli/command-line.ts';
import { wrapText } from '../../src/cli/paragraph.ts';
import { faults } from '../../src/core/faults.ts';
import { type HelperStage, openHelperStage } from '../helper/stage.ts';

let stage: HelperStage;
beforeEach(() => {
  stage = openHelperStage();
});
afterEach(() => stage.close());

async function explain(argv: string[], changes: Parameters<HelperStage['caller']>[0] = {}) {
  const caller = stage.caller({ program: 'efs-agent', ...changes });
  const status = await runCommandLine(['explain', ...argv], caller);
  return { status, out: caller.out, error: caller.error };
}

test('a code is explained: meaning, likely cause, next step, layer and exit status', async () => {
  expect(await explain(['target.silent'])).toEqual({
    status: 0,
    error: '',
    out: `target.silent
  meaning       The address does not answer.
  likely cause  A security group or network ACL that drops packets to TCP 2049,
                a route that leads nowhere, or a server that hangs.
  next step     Allow TCP 2049 from this instance to the mount target in its
                security group, and check the route.
  layer         TCP: the connection to the mount target
  exit status   32
  again         yes, it may succeed later by itself
`,
  });
});

test('a code may be copied with its brackets', async () => {
  expect((await explain(['[dns.failed]'])).out).toMatch(/^dns\.failed\n/);
});

test('a code that does not exist brings the nearest that does', async () => {
  expect(await explain(['targt.silent'])).toEqual({
    status: 1,
    out: '',
    error:
      'efs-agent: there is no error code targt.silent [usage]\n  Did you mean target.silent? See all codes with: efs-agent explain.\n',
  });
});

test('without a code every one is listed once, under its layer, within the columns of the terminal', async () => {
  for (const outColumns of [80, 120]) {
    const { out } = await explain([], { outColumns, environment: { ...stage.environment, NO_COLOR: '1' } });

    for (const code of Object.keys(faults))
      expect(out.split('\n').filter((line) => line.startsWith(`  ${code} `))).toHaveLength(1);
    for (const line of out.split('\n')) expect(line.length).toBeLessThanOrEqual(outColumns);
  }
});

test('a next step names no command of ours that there is not', async () => {
  const named = Object.values(faults).flatMap(({ hint }) =>
    [...hint.matchAll(/efs-agent ([a-z][a-z-]+)/g)].map(([, command]) => command!),
  );
  expect(named.length).toBeGreaterThan(8);
  const prose = ['never'];
  for (const command of new Set(named.filter((word) => !prose.includes(word)))) {
    const caller = stage.caller({ program: 'efs-agent' });
    expect(await runCommandLine([command, '--help'], caller), command).toBe(0);
    expect(caller.out).toContain(`efs-agent ${command}`);
  }
});

test('programs get the same as JSON', async () => {
  const one = JSON.parse((await explain(['access.denied', '--json'])).out) as object;
  const all = JSON.parse((await explain(['--json'])).out) as object[];

  expect(one).toMatchObject({ code: 'access.denied', layer: 'nfs', exitStatus: 32, mayPass: false });
  expect(all).toHaveLength(Object.keys(faults).length);
  expect(all).toContainEqual(one);
});

test.each([
  ['a terminal', { outColumns: 80 }, {}, true],
  ['a file', { outColumns: null }, {}, false],
  ['NO_COLOR', { outColumns: 80 }, { NO_COLOR: '1' }, false],
  ['a dumb terminal', { outColumns: 80 }, { TERM: 'dumb' }, false],
])('colour for %s: only where it is wanted', async (_name, changes, environment, coloured) => {
  const { out } = await explain(['usage'], {
    ...changes,
    environment: { ...stage.environment, TERM: 'xterm', ...environment },
  });

  expect(out.includes('\u001b[')).toBe(coloured);
});

test('a word that is longer than a line stays whole', () => {
  expect(wrapText('see https://example.com/a/long/address now', 12, '- ', '  ')).toEqual([
    '- see',
    '  https://example.com/a/long/address',
    '  now',
  ]);
});
