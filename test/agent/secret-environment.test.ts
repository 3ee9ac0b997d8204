import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type AgentStage, fileSystemId, openAgentStage } from '../support/agent-stage.ts';

let stage: AgentStage;
beforeEach(() => {
  stage = openAgentStage([23120, 23129]);
});
afterEach(() => stage.close());

const secret = 'PLANTED+secret/0123456789abcdef';

/** Every file of the runtime directory, and the environments and arguments of a process and of its descendants. */
function readEverything(pid: number): string {
  const files = readdirSync(stage.runtimeDir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => readFileSync(join(entry.parentPath, entry.name), 'utf8'));
  return [...files, ...readProcesses(pid)].join('\n');
}

function readProcesses(pid: number): string[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    .trim()
    .split(' ')
    .filter(Boolean);
  const own = ['environ', 'cmdline'].map((name) => readFileSync(`/proc/${pid}/${name}`, 'utf8'));
  return [...own, ...children.flatMap((child) => readProcesses(Number(child)))];
}

test('keys in the environment of a mount reach no file, no log and no process of the agent', async () => {
  await stage.startTarget();
  const agent = await stage.startAgent();
  Object.assign(stage.environment, {
    AWS_ACCESS_KEY_ID: 'AKIAENVIRONMENT',
    AWS_SECRET_ACCESS_KEY: secret,
    AWS_SESSION_TOKEN: `${secret}==`,
  });

  const mounted = await stage.mountEfs(
    fileSystemId,
    stage.mountPoint,
    '-o',
    'tls,iam,mounttargetip=127.0.0.1',
  );

  expect(mounted).toMatchObject({ status: 0, stderr: '' });
  const everything = readEverything(agent.child.pid!);
  expect(everything).toContain('"AWS_ACCESS_KEY_ID":"(not kept)"');
  expect(everything).toContain('identity.cjs');
  expect(everything + agent.stderr() + agent.stdout()).not.toContain(secret);
});
