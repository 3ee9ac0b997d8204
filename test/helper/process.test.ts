import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { fileSystemId, type HelperStage, isAlive, mountScript, openHelperStage } from './stage.ts';

const bundle = resolve(import.meta.dirname, '../../dist/mount-efs.cjs');
let stage: HelperStage;
beforeEach(() => {
  stage = openHelperStage();
  symlinkSync(bundle, join(stage.directory, 'mount.efs'));
});
afterEach(() => stage.close());

function start(...argv: string[]) {
  const child = spawn(process.execPath, [join(stage.directory, 'mount.efs'), ...argv], {
    env: stage.environment,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stderr = '';
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  return { child, stderr: () => stderr, ended: once(child, 'close') };
}

test.each(['SIGINT', 'SIGTERM', 'SIGHUP'] as const)(
  '%s during mount.nfs4 ends mount.efs with 8 and leaves no child behind',
  async (signal) => {
    stage.plan('stubborn');
    const conversations = await stage.listen(mountScript());
    const { child, stderr, ended } = start(fileSystemId, stage.mountPoint, '-o', 'tls');
    await expect.poll(() => stage.mountPid()).not.toBeNull();

    child.kill(signal);

    expect(await ended).toEqual([8, null]);
    expect(stderr()).toContain('[interrupted]');
    expect(isAlive(stage.mountPid()!)).toBe(false);
    await expect.poll(() => conversations[0]!.ended).toBe(true);
  },
);

test('a mount whose standard error nobody reads still succeeds', async () => {
  await stage.listen(mountScript());
  const { child, ended } = start(fileSystemId, stage.mountPoint, '-o', 'tls', '-v');
  child.stderr.destroy();
  child.stdout.destroy();

  expect(await ended).toEqual([0, null]);
});

test('the agent is looked for beside the program the link points to', async () => {
  const beside = join(stage.directory, 'lib');
  mkdirSync(beside);
  copyFileSync(bundle, join(beside, 'mount-efs.cjs'));
  writeFileSync(
    join(beside, 'agent.cjs'),
    `console.error('efs-agent: the one beside [usage]'); process.exit(1);`,
  );
  symlinkSync(join(beside, 'mount-efs.cjs'), join(stage.directory, 'mount.efs.copy'));
  const child = spawn(
    process.execPath,
    [join(stage.directory, 'mount.efs.copy'), fileSystemId, stage.mountPoint, '-o', 'tls'],
    {
      env: stage.environment,
      stdio: ['ignore', 'ignore', 'pipe'],
    },
  );
  let stderr = '';
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });

  expect(await once(child, 'close')).toEqual([2, null]);
  expect(stderr).toContain('the agent did not start: efs-agent: the one beside [usage] [agent.start-failed]');
});
