import { spawnSync } from 'node:child_process';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type AgentStage, fileSystemId, openAgentStage } from '../support/agent-stage.ts';

const hasGanesha = spawnSync('sh', ['-c', 'command -v ganesha.nfsd']).status === 0;

let stage: AgentStage;
beforeEach(() => {
  stage = openAgentStage([23120, 23129]);
});
afterEach(() => stage.close());

test.skipIf(!hasGanesha)('whoami names the role, its source and its expiry, and no secret', async () => {
  await stage.startLocalTarget(null);
  await stage.startAgent();
  await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'tls,iam,mounttargetip=127.0.0.1');

  const here = await stage.efsAgent('whoami');
  const there = await stage.efsAgent('whoami', stage.mountPoint, '--json');

  expect(here).toMatchObject({ status: 0, stderr: '' });
  expect(here.stdout).toMatch(/^arn +arn:aws:sts::111122223333:assumed-role\/efs-client\/i-\w+$/m);
  expect(here.stdout).toMatch(/^source +metadata:efs-client$/m);
  expect(here.stdout).toMatch(/^expires +20\S+Z \(in 5 h 59 min\)$/m);
  expect(Object.keys(JSON.parse(there.stdout)).toSorted()).toEqual([
    'accessKeyId',
    'arn',
    'expiresAtMs',
    'source',
  ]);
});

test('a mount without iam is nobody, and a directory without a mount is an error', async () => {
  await stage.startTarget();
  await stage.startAgent();
  await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'tls,mounttargetip=127.0.0.1');

  expect(await stage.efsAgent('whoami', stage.mountPoint)).toMatchObject({
    status: 0,
    stdout: 'anonymous (without the option iam)\n',
  });
  expect((await stage.efsAgent('whoami', '/nowhere')).stderr).toContain('[mountpoint.not-mounted]');
});

test('without credentials whoami says where it has looked', async () => {
  stage.configure([], ['metadata_endpoint = http://127.0.0.1:9']);
  await stage.startAgent();

  const ended = await stage.efsAgent('whoami');

  expect(ended.status).toBe(32);
  expect(ended.stderr).toContain('AWS Access Key ID and Secret Access Key are not found');
});
