import { execFile } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { takeSocketActivationFd } from '../../src/host/notify.ts';

const folder = mkdtempSync(join(tmpdir(), 'efs-agent-notify-'));
const bundle = join(folder, 'notify.cjs');
const said = join(folder, 'said');

beforeAll(async () => {
  await build({
    entryPoints: ['src/host/notify.ts'],
    outfile: bundle,
    bundle: true,
    platform: 'node',
    format: 'cjs',
  });
  writeFileSync(join(folder, 'systemd-notify'), `#!/bin/sh\necho "$NOTIFY_SOCKET $*" >> ${said}\n`);
  chmodSync(join(folder, 'systemd-notify'), 0o755);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Runs a program that notifies, with a stand-in for systemd-notify in its PATH. */
async function notify(environment: NodeJS.ProcessEnv): Promise<string> {
  writeFileSync(said, '');
  const program = `require(process.argv[1]).notifySystemd(['READY=1', 'STATUS=serving']).then(() => console.log('told'));`;
  const env = { PATH: `${folder}:${process.env['PATH']}`, ...environment };
  const { stdout } = await promisify(execFile)(process.execPath, ['-e', program, bundle], { env });
  expect(stdout).toBe('told\n');
  return readFileSync(said, 'utf8');
}

test('under systemd the state is passed to systemd-notify before the promise resolves', async () => {
  expect(await notify({ NOTIFY_SOCKET: '/run/systemd/notify' })).toBe(
    '/run/systemd/notify READY=1 STATUS=serving\n',
  );
});

test('outside of systemd nothing is started', async () => {
  expect(await notify({})).toBe('');
});

test('a system without systemd-notify does not keep the agent from going on', async () => {
  expect(await notify({ NOTIFY_SOCKET: '/run/systemd/notify', PATH: '/nonexistent' })).toBe('');
});

test('a socket that systemd opened for this process is descriptor 3, and no child takes it for its own', () => {
  const environment = {
    LISTEN_PID: String(process.pid),
    LISTEN_FDS: '1',
    LISTEN_FDNAMES: 'control',
    PATH: '/bin',
  };

  expect(takeSocketActivationFd(environment)).toBe(3);

  expect(environment).toEqual({ PATH: '/bin' });
});

test('a socket that systemd opened for another process is not ours', () => {
  for (const environment of [
    {},
    { LISTEN_PID: String(process.pid + 1), LISTEN_FDS: '1' },
    { LISTEN_PID: String(process.pid), LISTEN_FDS: '0' },
    { LISTEN_PID: String(process.pid) },
    { LISTEN_PID: String(process.pid), LISTEN_FDS: 'x' },
  ]) {
    expect(takeSocketActivationFd({ ...environment })).toBeNull();
  }
});
