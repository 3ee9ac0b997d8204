import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { protocolVersion, type ServedMount } from '../../src/core/control-protocol.ts';
import { parseMountSpec, parseOptions } from '../../src/core/mount-spec.ts';
import { connectToAgent } from '../../src/helper/control-client.ts';
import { receiveAnswer } from '../../src/helper/conversation.ts';
import { type AgentStage, fileSystemId, openAgentStage } from '../support/agent-stage.ts';

const keys = { AWS_ACCESS_KEY_ID: 'AKIAIOSFODNN7EXAMPLE', AWS_SECRET_ACCESS_KEY: 'not-a-secret' };
const accessPoint = 'fsap-0123456789abcdef0';
const there = 'tls,iam,mounttargetip=127.0.0.1';

let stage: AgentStage;
beforeEach(async () => {
  stage = openAgentStage([23250, 23259]);
  Object.assign(stage.environment, keys);
  await stage.startTarget();
  await stage.useMountTable();
  await stage.startAgent();
});
afterEach(() => stage.close());

/** What the agent says of a second mount on the same directory. */
async function compare(
  device: string,
  options: string,
  environment: Record<string, string> = keys,
): Promise<ServedMount | null> {
  const agent = await connectToAgent(join(stage.runtimeDir, 'control.sock'));
  if (agent === null) throw new Error('no agent listens');
  try {
    const spec = parseMountSpec(device, parseOptions(options));
    const { mountPoint } = stage;
    agent.send({ kind: 'compare', version: protocolVersion, spec, mountPoint, environment });
    return (await receiveAnswer(agent, 'compared', 60_000)).served;
  } finally {
    agent.close();
  }
}

test('the same request again is the same mount, whatever its NFS options and however the file system is named', async () => {
  expect(await stage.mountEfs(`${fileSystemId}:/app`, stage.mountPoint, '-o', there)).toMatchObject({
    status: 0,
  });

  for (const [device, options] of [
    [`${fileSystemId}:/app`, there],
    [`${fileSystemId}:/app`, `rw,_netdev,nofail,rsize=65536,${there}`],
    [`${fileSystemId}.efs.us-east-1.amazonaws.com:/app`, there],
  ] as const)
    expect(await compare(device, options)).toMatchObject({
      description: `${fileSystemId}:/app`,
      differences: [],
      tunnelDifferences: [],
    });
});

test('another file system, directory, access point or identity is another mount, and each difference is named', async () => {
  expect(await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', there)).toMatchObject({ status: 0 });

  const differences = async (...asked: Parameters<typeof compare>) => (await compare(...asked))?.differences;
  expect(await differences('fs-00000000', there)).toEqual([`the file system is ${fileSystemId} there`]);
  expect(await differences(`${fileSystemId}:/other`, there)).toEqual([
    'the directory is / there and /other here',
  ]);
  expect(await differences(fileSystemId, `${there},accesspoint=${accessPoint}`)).toEqual([
    `accesspoint is not given there and ${accessPoint} here`,
  ]);
  expect(await differences(fileSystemId, 'tls,mounttargetip=127.0.0.1')).toEqual([
    'iam is given there and not given here',
  ]);
  expect(await differences(fileSystemId, `${there},awsprofile=other`)).toEqual([
    'awsprofile is not given there and other here',
  ]);
});

test('with another source of credentials in the environment it is another identity', async () => {
  expect(await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', there)).toMatchObject({ status: 0 });

  for (const name of [
    'AWS_PROFILE',
    'AWS_CONTAINER_CREDENTIALS_RELATIVE_URI',
    'AWS_CONTAINER_CREDENTIALS_FULL_URI',
    'AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE',
    'AWS_ROLE_ARN',
    'AWS_WEB_IDENTITY_TOKEN_FILE',
    'AWS_SHARED_CREDENTIALS_FILE',
    'AWS_CONFIG_FILE',
    'AWS_EC2_METADATA_DISABLED',
  ])
    expect((await compare(fileSystemId, there, { ...keys, [name]: 'other' }))?.differences, name).toEqual([
      'the environment names another source of credentials',
    ]);
  expect((await compare(fileSystemId, there, {}))?.differences).toHaveLength(1);
  expect((await compare(fileSystemId, there, { ...keys, AWS_REGION: 'us-east-1' }))?.differences).toEqual([]);
});

test('another way to the same data is told apart: a mount is the same, a remount cannot change it', async () => {
  expect(await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', there)).toMatchObject({ status: 0 });

  expect(await compare(fileSystemId, 'tls,iam,mounttargetip=127.0.0.2,tlsport=20100')).toMatchObject({
    differences: [],
    tunnelDifferences: [
      'mounttargetip is 127.0.0.1 there and 127.0.0.2 here',
      'tlsport is not given there and 20100 here',
    ],
  });
});

test('a directory that is none of ours is told as such', async () => {
  expect(await compare(fileSystemId, there)).toBeNull();
});
