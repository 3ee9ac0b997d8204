import { afterEach, beforeEach, expect, test } from 'vitest';
import { agentDirectory } from '../../src/helper/caller.ts';
import { type HelperStage, openHelperStage } from './stage.ts';

let stage: HelperStage;
beforeEach(() => {
  stage = openHelperStage();
});
afterEach(() => stage.close());

test.each([
  [{}, null, '/run/efs-agent'],
  [{}, 4_026_532_000, '/run/efs-agent/netns/4026532000'],
  [{ EFS_AGENT_RUNTIME_DIR: '/run/other' }, 4_026_532_000, '/run/other'],
  [{ EFS_AGENT_RUNTIME_DIR: '' }, null, '/run/efs-agent'],
])('with %j in the network namespace %j the agent is in %s', (environment, namespace, directory) => {
  expect(agentDirectory(stage.caller({ environment, networkNamespace: () => namespace }))).toBe(directory);
});
