import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  type AgentStage,
  fileSystemId,
  openAgentStage,
  type Running,
  waitFor,
} from '../support/agent-stage.ts';
import { askOnce } from '../support/echo.ts';
import { canUnshare } from '../support/mount-table.ts';

// mount.nfs4 is at work, and somebody dies: the stand-in waits until the test lets it mount, or fail.
let stage: AgentStage;
beforeEach(() => {
  stage = openAgentStage([23230, 23239]);
});
afterEach(() => stage.close());

const timeout = 120_000;
const callerSockets = () => readdirSync(join(stage.runtimeDir, 'callers'));

test('a mount whose agent is killed while mount.nfs4 is at work succeeds, and its tunnel is there', {
  timeout,
}, async () => {
  const { agent, helper, decide } = await beginMount('');
  const before = await stage.status();

  agent.child.kill('SIGKILL');
  await agent.ended;
  // Nobody else does it here: the helper starts the next one.
  await expect.poll(async () => (await stage.efsAgent('status')).status, { timeout: 60_000 }).toBe(0);
  decide('mount');
  const { status, stderr } = await helper.ended;
  const { pid, mounts } = await stage.status();

  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(pid).not.toBe(before.pid);
  expect(mounts).toMatchObject([
    { mountPoint: stage.mountPoint, port: before.mounts[0]!.port, state: 'mounted' },
  ]);
  expect(await askOnce(mounts[0]!.port!, 'still there')).toBe('still there');
  expect(callerSockets()).toEqual([]);
});

test.skipIf(!canUnshare)(
  'a mount that comes to be after agent and caller were killed has its tunnel',
  { timeout },
  async () => {
    const table = await stage.useMountTable();
    const { agent, helper, decide } = await beginMount(table.mountScript);
    const port = (await stage.status()).mounts[0]!.port!;

    for (const one of [helper, agent]) {
      one.child.kill('SIGKILL');
      await one.ended;
    }
    await stage.startAgent();
    const meanwhile = await stage.status();
    decide('mount');
    await expect.poll(() => table.mountPoints()).toEqual([stage.mountPoint]);

    await expect.poll(async () => (await stage.status()).mounts[0]?.state).toBe('mounted');
    expect(meanwhile.mounts).toMatchObject([{ port, state: 'mounting' }]);
    expect(await askOnce(port, 'still there')).toBe('still there');
    expect(callerSockets()).toEqual([]);
  },
);

test('a mount.nfs4 that outlives its caller keeps its port until it has failed', { timeout }, async () => {
  const { helper, decide } = await beginMount('');

  helper.child.kill('SIGKILL');
  await helper.ended;
  const whileItTries = await stage.status();
  decide('fail');

  expect(whileItTries.mounts).toMatchObject([{ state: 'mounting' }]);
  await expect.poll(async () => (await stage.status()).mounts).toEqual([]);
  expect([...stage.stateFiles(), ...callerSockets()]).toEqual([]);
});

async function beginMount(mountScript: string): Promise<{
  agent: Running;
  helper: Running;
  decide(how: 'mount' | 'fail'): void;
}> {
  const word = join(stage.directory, 'word');
  const started = join(stage.directory, 'started');
  execFileSync('mkfifo', [word]);
  stage.standIn(
    'mount.nfs4',
    `>${started}\nread how <${word}\n[ "$how" = mount ] || exit 32\n${mountScript}`,
  );
  await stage.startTarget();
  const agent = await stage.startAgent();
  const helper = stage.start(join(stage.directory, 'mount.efs'), [
    fileSystemId,
    stage.mountPoint,
    '-o',
    'tls,mounttargetip=127.0.0.1',
  ]);
  await waitFor(() => existsSync(started), 'mount.nfs4 to start', helper);
  return { agent, helper, decide: (how) => writeFileSync(word, `${how}\n`) };
}
