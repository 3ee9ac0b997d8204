import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import stringWidth from 'string-width';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type HelperStage, openHelperStage, statusOf } from '../helper/stage.ts';
import { openTerminal, type Terminal } from '../support/terminal.ts';

const program = resolve(import.meta.dirname, '../../dist/efs-agent.mjs');
const longPath =
  '/var/lib/kubelet/pods/6c1f5f0e-8a55-4f4b-9f3b-2d1f0e6f7a11/volumes/kubernetes.io~csi/efs/mount';
const reset = { alternate: false, cursor: true };

let stage: HelperStage;
let terminal: Terminal | null;
beforeEach(async () => {
  stage = openHelperStage();
  terminal = null;
  let asked = 0;
  await stage.listen((_message, reply) => {
    asked += 1;
    const { mounts, ...status } = statusOf('/mnt/efs');
    const [mount] = mounts;
    const many = Array.from({ length: 40 }, (_, at) => ({
      ...mount!,
      mountId: `m${at}`,
      mountPoint: at === 0 ? longPath : `/mnt/${at}`,
      bytesUp: asked * at * 1_000_000,
    }));
    reply({ kind: 'status', status: { ...status, mounts: many } });
  });
});
afterEach(async () => {
  terminal?.close();
  await stage.close();
});

/** A terminal in which `status --watch` runs, after a line of somebody else's. */
async function watch(columns: number, rows: number, nodeOptions = ''): Promise<Terminal> {
  terminal = openTerminal(columns, rows, { ...stage.environment, NODE_OPTIONS: nodeOptions });
  await terminal.wait(/^\$/m);
  terminal.type('echo some""thing before');
  await terminal.wait(/^something before$/m);
  terminal.type(`${process.execPath} ${program} status --watch 1; echo ended with $?`);
  await terminal.wait(/q quit/);
  return terminal;
}

test('at 80 and at 120 columns nothing is wrapped, and q gives the terminal back as it was', async () => {
  const shown = await watch(80, 20);
  const narrow = await shown.wait(/^fs-\S+ +\/var\/l\S*…\S*mount +mounted .*[▁-█]{2}$/m);
  shown.resize(120, 24);
  const wide = await shown.wait(/ADDRESS/);
  await shown.wait(/^(.*\n){23}q quit/);

  expect(shown.state()).toEqual({ alternate: true, cursor: false });
  expect(narrow[0]).toMatch(/^efs-agent 0\.1\.0, pid 4711, up .* every 1 s {2}\d\d:\d\d:\d\d$/);
  expect(narrow[3]).toMatch(/^FILE SYSTEM +MOUNT POINT +STATE +UP\/s +DOWN\/s +WAITING +TREND$/);
  expect(narrow.filter((line) => line.startsWith('fs-'))).toHaveLength(15);
  expect(narrow.at(-1)).toMatch(/^q quit.*1-15 of 40$/);
  for (const line of narrow) expect(stringWidth(line)).toBeLessThanOrEqual(80);
  expect(wide.join('\n')).toMatch(
    /^fs-0123456789abcdef0 {2}\/var\/lib\/kub\S*…\S*\/efs\/mount {2}10\.1\.1\.6 /m,
  );
  shown.press('q');

  expect((await shown.wait(/^ended with 0$/m)).join('\n')).toContain('something before');
  expect(shown.state()).toEqual(reset);
});

test('keys scroll and sort', async () => {
  const shown = await watch(80, 12);

  shown.press('NPage');
  await shown.wait(/8-14 of 40$/m);
  shown.press('End');
  await shown.wait(/ \/mnt\/39 .*\n(.*\n)?q quit.*34-40 of 40$/m);
  shown.press('Home', 's');
  const sorted = await shown.wait(/sort: busiest.*1-7 of 40$/m);

  await shown.wait(/TREND\nfs-\S+ +\/mnt\/39 /);
  expect(sorted[3]).toContain('TREND');
});

test.each([
  ['Ctrl-C', (shown: Terminal) => shown.press('C-c'), 0],
  ['a crash', () => {}, 1],
])('after %s the terminal is as it was', async (what, end, status) => {
  stage.write('crash.cjs', 'setTimeout(() => { throw new Error("made"); }, 4000);');
  const shown = await watch(80, 12, what === 'a crash' ? `--require=${stage.directory}/crash.cjs` : '');

  end(shown);

  const after = await shown.wait(/^ended with \d+$/m);
  expect(after.join('\n')).toContain(`ended with ${status}`);
  expect(after.join('\n')).toContain(what === 'a crash' ? 'Error: made' : 'something before');
  expect(shown.state()).toEqual(reset);
});

test('where standard output is no terminal the status is written again and again, until a signal ends it', async () => {
  const child = spawn(process.execPath, [program, 'status', '--watch', '1'], { env: stage.environment });
  let written = '';
  child.stdout.on('data', (chunk) => {
    written += chunk;
  });

  await expect.poll(() => written.match(/^\d{4}-\d\d-\d\dT.*Z\nefs-agent 0\.1\.0/gm)?.length).toBe(2);
  child.kill('SIGINT');

  expect(await once(child, 'exit')).toEqual([0, null]);
  expect(written).toContain(longPath);
  expect(written).not.toContain('\x1b');
});

test('status --watch --json writes a line for each status', async () => {
  const child = spawn(process.execPath, [program, 'status', '--json', '--watch', '1'], {
    env: stage.environment,
  });
  let written = '';
  child.stdout.on('data', (chunk) => {
    written += chunk;
  });

  await expect.poll(() => written.split('\n').length).toBeGreaterThan(2);
  child.kill('SIGTERM');
  await once(child, 'exit');

  for (const line of written.trimEnd().split('\n'))
    expect(JSON.parse(line)).toMatchObject({ schemaVersion: 1 });
});
