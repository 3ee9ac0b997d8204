import { rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { openCredentialIssuer } from '../../src/target/credentials.ts';
import { type MetadataOptions, openMetadataService } from '../../src/target/metadata.ts';
import { createTemporaryDirectory } from '../support/temporary-directory.ts';
import { readMetadata } from './stage.ts';

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

const instance = {
  region: 'us-east-1',
  partition: 'aws',
  accountId: '111122223333',
  instanceId: 'i-0123456789abcdef0',
  roleName: 'efs-client',
  hostName: 'ip-10-0-0-1.ec2.internal',
  localIp: '127.0.0.1',
};
const credentialsPath = `meta-data/iam/security-credentials/${instance.roleName}`;

async function openService(changes: Partial<MetadataOptions> = {}) {
  const stateDirectory = createTemporaryDirectory();
  undo.push(() => rmSync(stateDirectory, { recursive: true, force: true }));
  const clock = { nowMs: Date.UTC(2026, 0, 2, 3, 4, 5) };
  const nowMs = () => clock.nowMs;
  const issuer = openCredentialIssuer({ ...instance, lifetimeMs: 3_600_000, stateDirectory, nowMs });
  const options = { address: '127.0.0.1', port: 0, instance, issuer, tokenOptional: false, nowMs };
  const service = await openMetadataService({ ...options, ...changes });
  undo.push(service.close);
  const read = async (path: string) => readMetadata(service.url, path);
  const credentials = async () => (await (await read(credentialsPath)).json()) as Record<string, string>;
  return { url: service.url, read, credentials, clock, issuer, stateDirectory };
}

describe('the instance metadata service', () => {
  test('answers 401 without a session token, and with one it never gave', async () => {
    const { url } = await openService();
    const headers = { 'x-aws-ec2-metadata-token': 'invented' };

    expect((await fetch(`${url}/latest/meta-data/instance-id`)).status).toBe(401);
    expect((await fetch(`${url}/latest/meta-data/instance-id`, { headers })).status).toBe(401);
  });

  test('answers without a session token when it is asked to', async () => {
    const { url } = await openService({ tokenOptional: true });

    expect(await (await fetch(`${url}/latest/meta-data/instance-id`)).text()).toBe(instance.instanceId);
  });

  test('gives session tokens only for 1 to 21600 seconds, only to PUT and not through a proxy', async () => {
    const { url } = await openService();
    const ask = async (method: string, headers: Record<string, string>) =>
      (await fetch(`${url}/latest/api/token`, { method, headers })).status;
    const life = (seconds: string) => ({ 'x-aws-ec2-metadata-token-ttl-seconds': seconds });

    expect(await ask('PUT', life('21600'))).toBe(200);
    expect(await ask('PUT', life('21601'))).toBe(400);
    expect(await ask('PUT', life('0'))).toBe(400);
    expect(await ask('PUT', {})).toBe(400);
    expect(await ask('GET', life('60'))).toBe(405);
    expect(await ask('PUT', { ...life('60'), 'x-forwarded-for': '10.0.0.1' })).toBe(403);
  });

  test('forgets a session token when its time is over', async () => {
    const { url, clock } = await openService();
    const headers = { 'x-aws-ec2-metadata-token-ttl-seconds': '60' };
    const token = await (await fetch(`${url}/latest/api/token`, { method: 'PUT', headers })).text();
    const ask = async () =>
      (await fetch(`${url}/latest/meta-data/instance-id`, { headers: { 'x-aws-ec2-metadata-token': token } }))
        .status;

    expect(await ask()).toBe(200);
    clock.nowMs += 60_000;
    expect(await ask()).toBe(401);
  });

  test('says where the instance is', async () => {
    const { read } = await openService();

    expect(await (await read('dynamic/instance-identity/document/')).json()).toMatchObject({
      region: 'us-east-1',
      availabilityZone: 'us-east-1a',
      instanceId: instance.instanceId,
      accountId: instance.accountId,
    });
    expect(await (await read('meta-data/placement/availability-zone')).text()).toBe('us-east-1a');
    expect(await (await read('meta-data/placement/availability-zone-id')).text()).toBe('use1-az1');
    expect(await (await read('meta-data/iam/security-credentials/')).text()).toBe('efs-client');
    expect(await (await read('meta-data/iam/info')).json()).toMatchObject({ Code: 'Success' });
    expect((await read('meta-data/iam/security-credentials/other')).status).toBe(404);
    expect((await read('meta-data/constructor')).status).toBe(404);
  });

  test.each([
    ['eu-central-1', 'euc1-az1'],
    ['ap-southeast-2', 'apse2-az1'],
    ['us-gov-west-1', 'usgw1-az1'],
  ])('abbreviates %s as the service does', async (region, zoneId) => {
    const { read } = await openService({ instance: { ...instance, region } });

    expect(await (await read('meta-data/placement/availability-zone-id')).text()).toBe(zoneId);
  });

  test('hands out temporary credentials, new ones after half of their life, and knows the old ones still', async () => {
    const { credentials, clock, issuer } = await openService();

    const first = await credentials();
    expect(first).toMatchObject({
      Code: 'Success',
      Type: 'AWS-HMAC',
      AccessKeyId: expect.stringMatching(/^ASIA[A-Z2-7]{16}$/),
      SecretAccessKey: expect.stringMatching(/^[A-Za-z0-9+/]{40}$/),
      Token: expect.stringMatching(/^[A-Za-z0-9+/]{700,}=*$/),
      Expiration: '2026-01-02T04:04:05Z',
    });
    expect(await credentials()).toEqual(first);
    clock.nowMs += 1_800_000;
    const second = await credentials();

    expect(second['AccessKeyId']).not.toBe(first['AccessKeyId']);
    expect(issuer.find(first['AccessKeyId']!)).toMatchObject({ sessionToken: first['Token'] });
  });

  test('keeps what it handed out readable for the owner alone', async () => {
    const { credentials, stateDirectory } = await openService();
    await credentials();

    expect(statSync(join(stateDirectory, 'credentials.json')).mode & 0o777).toBe(0o600);
  });

  test('answers as the ECS credentials endpoint, for a session of its own', async () => {
    const { url, issuer } = await openService();

    const keys = (await (await fetch(`${url}/v2/credentials/my-task`)).json()) as Record<string, string>;

    expect(keys).toMatchObject({ RoleArn: 'arn:aws:iam::111122223333:role/efs-client' });
    expect(issuer.find(keys['AccessKeyId']!)?.principal.sessionArn).toMatch(
      /:assumed-role\/efs-client\/my-task$/,
    );
  });

  test('answers GetCallerIdentity for keys it knows, and for no others', async () => {
    const { url, credentials } = await openService();
    const { AccessKeyId } = await credentials();
    const whoIs = (key: string) =>
      fetch(url, {
        method: 'POST',
        headers: {
          authorization: `AWS4-HMAC-SHA256 Credential=${key}/20260102/us-east-1/sts/aws4_request, Signature=0`,
        },
        body: new URLSearchParams({ Action: 'GetCallerIdentity', Version: '2011-06-15' }),
      });

    const known = await whoIs(AccessKeyId!);
    const unknown = await whoIs('ASIAUNKNOWN');

    expect(await known.text()).toContain(
      '<Arn>arn:aws:sts::111122223333:assumed-role/efs-client/i-0123456789abcdef0</Arn>',
    );
    expect(unknown.status).toBe(403);
    expect(await unknown.text()).toContain('<Code>InvalidClientTokenId</Code>');
  });

  test('says which address is taken', async () => {
    const { url } = await openService();

    await expect(openService({ port: Number(new URL(url).port) })).rejects.toMatchObject({
      code: 'port.taken',
    });
  });
});
