import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, type TestContext, test } from 'vitest';
import type { CredentialsRequest } from '../../src/core/identity-protocol.ts';
import { makeHome } from '../identity/endpoints.ts';
import { forkIdentity } from '../identity/forked.ts';
import { type Installed, installMetadataMock, startProgram } from './programs.ts';

const unnamed: CredentialsRequest = { awsProfile: null, awsCredsUri: null, roleArn: null, jwtPath: null };

let installed: Installed;
beforeAll(async () => {
  installed = await installMetadataMock();
});
const stops: (() => Promise<void>)[] = [];
afterAll(() => Promise.all(stops.map((stop) => stop())));

/** An identity process whose metadata service is amazon-ec2-metadata-mock; version 2 only. */
async function askMock(context: TestContext, expiration: string) {
  if (installed.kind === 'absent') return context.skip(installed.why);
  const home = makeHome();
  const credentials = {
    Code: 'Success',
    LastUpdated: '2020-04-02T18:50:40Z',
    Type: 'AWS-HMAC',
    AccessKeyId: '12345678901',
    SecretAccessKey: 'v/12345678901',
    Token: 'TEST92test48TEST+y6RpoTEST92test48TEST/8oWVAiBqTEsT5Ky7ty2tEStxC1T==',
    Expiration: expiration,
  };
  const config = join(home, 'aemm.json');
  writeFileSync(
    config,
    JSON.stringify({ metadata: { values: { 'iam-security-credentials': credentials } } }),
  );
  const mock = await startProgram(
    installed.path,
    (port) => ['--imdsv2', '-n', '127.0.0.1', '-p', `${port}`, '-c', config],
    { HOME: home },
  );
  stops.push(mock.stop);
  return forkIdentity({ metadataEndpoint: mock.url });
}

test('the metadata mock of AWS tells where the instance runs, with the id of its zone', async (context) => {
  const { ask } = await askMock(context, '2099-01-01T00:00:00Z');

  expect(await ask({ kind: 'instance', withZoneId: true })).toMatchObject({
    kind: 'instance.done',
    instance: {
      region: 'us-east-1',
      availabilityZone: 'us-east-1f',
      availabilityZoneId: 'use1-az4',
      instanceId: expect.stringMatching(/^i-/),
    },
  });
});

test('the metadata mock of AWS gives the keys of the instance role, and its identity', async (context) => {
  const { ask } = await askMock(context, '2099-01-01T00:00:00Z');

  expect(
    await ask({ kind: 'whoami', credentials: unnamed, region: 'us-east-1', dnsSuffix: 'amazonaws.com' }),
  ).toMatchObject({
    kind: 'whoami.done',
    identity: {
      source: expect.stringMatching(/^metadata:./),
      accessKeyId: '12345678901',
      arn: expect.stringMatching(/^arn:aws:sts::\d{12}:assumed-role\/.+\/i-/),
      expiresAtMs: Date.parse('2099-01-01T00:00:00Z'),
    },
  });
});

test('keys of the metadata mock that have expired are refused', async (context) => {
  const { ask } = await askMock(context, '2020-01-01T00:00:00Z');

  expect(
    await ask({ kind: 'whoami', credentials: unnamed, region: 'us-east-1', dnsSuffix: 'amazonaws.com' }),
  ).toMatchObject({
    kind: 'failed',
    error: { code: 'credentials.failed', message: expect.stringContaining('expired at 2020-01-01') },
  });
});
