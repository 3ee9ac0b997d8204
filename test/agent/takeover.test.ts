import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type AgentStage, fileSystemId, openAgentStage, waitFor } from '../support/agent-stage.ts';
import { openEcho, startProbe } from '../support/echo.ts';

let stage: AgentStage;
beforeEach(() => {
  stage = openAgentStage([23160, 23179]);
});
afterEach(() => stage.close());

test('a takeover hands the listener over: a probe that connects all the while is never refused', async () => {
  await stage.startTarget();
  const old = await stage.startAgent();
  await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'tls,mounttargetip=127.0.0.1');
  const port = (await stage.status()).mounts[0]!.port!;
  const open = await openEcho(port);
  const probe = startProbe(port);

  const takeover = await stage.efsAgent('agent', '--takeover');
  await old.ended;
  await expect.poll(() => open.ask(' and goes on')).toBe(' and goes on');
  const status = await stage.settledStatus();
  const refused = await probe.stop();

  expect(takeover).toMatchObject({ status: 0, stderr: '' });
  expect(status.pid).not.toBe(old.child.pid);
  expect(status.mounts).toMatchObject([{ fileSystemId, state: 'mounted', port }]);
  expect(refused).toEqual([]);
  expect(probe.answered()).toBeGreaterThan(0);
  open.close();
});

test('a successor that cannot start leaves the running agent in charge', async () => {
  await stage.startTarget();
  const agent = await stage.startAgent();
  await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'tls,mounttargetip=127.0.0.1');
  const port = (await stage.status()).mounts[0]!.port!;
  writeFileSync(join(stage.directory, 'efs-utils.conf'), 'broken\n');

  agent.child.kill('SIGHUP');
  await waitFor(() => agent.stderr().includes('takeover.failed'), 'the takeover to fail', agent);

  const echo = await openEcho(port);
  expect(await echo.ask('still here')).toBe('still here');
  echo.close();
});
