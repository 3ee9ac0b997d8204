import {
  CloudWatchLogsClient,
  DescribeLogGroupsCommand,
  GetLogEventsCommand,
} from '@aws-sdk/client-cloudwatch-logs';
import { DescribeSubnetsCommand, EC2Client } from '@aws-sdk/client-ec2';
import { CreateFileSystemCommand, CreateMountTargetCommand, EFSClient } from '@aws-sdk/client-efs';
import { afterAll, beforeAll, expect, type TestContext, test } from 'vitest';
import type { CredentialsRequest, LogEvent } from '../../src/core/identity-protocol.ts';
import { makeHome, plantedSecret } from '../identity/endpoints.ts';
import { forkIdentity, type Question } from '../identity/forked.ts';
import { type Installed, installMoto, type RunningProgram, startProgram } from './programs.ts';

const region = 'eu-central-1';
const dnsSuffix = 'amazonaws.com';
const unnamed: CredentialsRequest = { awsProfile: null, awsCredsUri: null, roleArn: null, jwtPath: null };
const keys = { AWS_ACCESS_KEY_ID: 'AKIAIOSFODNN7EXAMPLE', AWS_SECRET_ACCESS_KEY: plantedSecret };

let installed: Installed;
let moto: RunningProgram | null = null;
beforeAll(async () => {
  installed = await installMoto();
  if (installed.kind === 'ready')
    moto = await startProgram(installed.path, (port) => ['-H', '127.0.0.1', '-p', `${port}`]);
});
afterAll(() => moto?.stop());

/** The address of moto; the test is skipped, with the reason, where it cannot be installed. */
function motoUrl(context: TestContext): string {
  if (installed.kind === 'absent') context.skip(installed.why);
  return moto!.url;
}

function clientOf(url: string) {
  const credentials = { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secretAccessKey: 'any' };
  return { region, endpoint: url, credentials };
}

/** A file system with a mount target in each of the first two subnets of the default network. */
async function createFileSystem(url: string) {
  const [efs, ec2] = [new EFSClient(clientOf(url)), new EC2Client(clientOf(url))];
  const { FileSystemId = '' } = await efs.send(
    new CreateFileSystemCommand({ CreationToken: `${performance.now()}` }),
  );
  const { Subnets = [] } = await ec2.send(new DescribeSubnetsCommand({}));
  const targets = [];
  for (const { SubnetId } of Subnets.slice(0, 2))
    targets.push(await efs.send(new CreateMountTargetCommand({ FileSystemId, SubnetId })));
  return { fileSystemId: FileSystemId, targets };
}

test('STS of moto gives keys for a web identity token, and says whose they are', async (context) => {
  const url = motoUrl(context);
  const home = makeHome({ token: 'a-web-identity-token' });
  const { ask } = await forkIdentity({ environment: { AWS_ENDPOINT_URL_STS: url } });
  const credentials = {
    ...unnamed,
    roleArn: 'arn:aws:iam::123456789012:role/app',
    jwtPath: `${home}/.aws/token`,
  };

  expect(await ask({ kind: 'whoami', credentials, region, dnsSuffix })).toMatchObject({
    kind: 'whoami.done',
    identity: {
      source: 'webidentity:arn:aws:iam::123456789012:role/app',
      accessKeyId: expect.stringMatching(/^ASIA/),
      arn: 'arn:aws:sts::123456789012:assumed-role/app/efs-mount-helper',
    },
  });
});

test('STS of moto says whose the keys of the environment are', async (context) => {
  const { ask } = await forkIdentity({ environment: { ...keys, AWS_ENDPOINT_URL: motoUrl(context) } });

  expect(await ask({ kind: 'whoami', credentials: unnamed, region, dnsSuffix })).toMatchObject({
    kind: 'whoami.done',
    identity: { source: 'environment', arn: expect.stringMatching(/^arn:aws:sts::123456789012:/) },
  });
});

test('STS of moto gives keys for a profile that assumes a role', async (context) => {
  const home = makeHome({
    config:
      '[profile role]\nrole_arn = arn:aws:iam::123456789012:role/app\ncredential_source = Environment\n',
  });
  const environment = { ...keys, AWS_PROFILE: 'role', AWS_ENDPOINT_URL: motoUrl(context) };
  const { ask } = await forkIdentity({ home, environment });

  expect(await ask({ kind: 'whoami', credentials: unnamed, region, dnsSuffix })).toMatchObject({
    kind: 'whoami.done',
    identity: { source: 'named_profile:role', arn: expect.stringContaining('assumed-role/app/') },
  });
});

test('EFS and EC2 of moto give the mount target of a zone, and any without one', async (context) => {
  const url = motoUrl(context);
  const { fileSystemId, targets } = await createFileSystem(url);
  const { ask } = await forkIdentity({ environment: { ...keys, AWS_ENDPOINT_URL: url } });
  const question = (zone: string | null): Question => ({
    kind: 'mountTargets',
    request: { fileSystemId, zone, region, dnsSuffix, credentials: unnamed },
  });

  const second = targets[1]!;
  expect(await ask(question(second.AvailabilityZoneName!))).toMatchObject({
    kind: 'mountTargets.done',
    mountTarget: { mountTargetId: second.MountTargetId, addresses: [second.IpAddress] },
  });
  const any = await ask(question(null));
  if (any.kind !== 'mountTargets.done') expect.fail(JSON.stringify(any));
  expect(targets.map(({ MountTargetId }) => MountTargetId)).toContain(any.mountTarget.mountTargetId);
});

test('a file system that moto does not know, and a zone without mount target, are told apart', async (context) => {
  const url = motoUrl(context);
  const { fileSystemId, targets } = await createFileSystem(url);
  const { ask } = await forkIdentity({ environment: { ...keys, AWS_ENDPOINT_URL: url } });
  const zones = targets.map(({ AvailabilityZoneName }) => AvailabilityZoneName);
  const empty = ['a', 'b', 'c'].map((letter) => region + letter).find((zone) => !zones.includes(zone))!;
  const question = (change: object): Question => ({
    kind: 'mountTargets',
    request: { fileSystemId, zone: empty, region, dnsSuffix, credentials: unnamed, ...change },
  });

  expect(await ask(question({ fileSystemId: 'fs-0000000000000dead' }))).toMatchObject({
    error: { code: 'dns.not-found', message: expect.stringContaining('EFS knows no fs-0000000000000dead') },
  });
  expect(await ask(question({}))).toMatchObject({
    error: { code: 'dns.not-found', message: expect.stringContaining(`no mount target in ${empty}`) },
  });
});

test('CloudWatch Logs of moto keeps how two mounts ended, with group, retention and stream', async (context) => {
  const url = motoUrl(context);
  const environment = { ...keys, AWS_ENDPOINT_URL_CLOUDWATCH_LOGS: url };
  const { ask } = await forkIdentity({ environment });
  const event: LogEvent = {
    message: 'Successfully mounted here',
    atMs: Date.now(),
    logGroup: '/aws/efs/{fs_id}',
    retentionDays: 14,
    fileSystemId: 'fs-0123456789abcdef0',
    region,
    dnsSuffix,
    credentials: unnamed,
  };

  expect(await ask({ kind: 'publish', event })).toMatchObject({ kind: 'publish.done' });
  const failure = { ...event, message: 'Mount failed, for a reason', retentionDays: null };
  expect(await ask({ kind: 'publish', event: failure })).toMatchObject({ kind: 'publish.done' });

  const logs = new CloudWatchLogsClient(clientOf(url));
  const logGroupName = '/aws/efs/fs-0123456789abcdef0';
  const logStreamName = 'fs-0123456789abcdef0 - mount.log';
  const { events } = await logs.send(new GetLogEventsCommand({ logGroupName, logStreamName }));
  const { logGroups } = await logs.send(new DescribeLogGroupsCommand({ logGroupNamePrefix: logGroupName }));
  expect(events?.map(({ message }) => message)).toEqual([event.message, failure.message]);
  expect(logGroups?.map(({ retentionInDays }) => retentionInDays)).toEqual([undefined]);
});
