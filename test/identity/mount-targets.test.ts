import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { AgentError } from '../../src/core/errors.ts';
import { chooseMountTarget, type MountTarget, readMountTarget } from '../../src/identity/mount-targets.ts';
import {
  closedEndpoint,
  plantedSecret,
  startEc2,
  startEfs,
  startEndpoint,
  startRawEndpoint,
} from './endpoints.ts';

const fileSystemId = 'fs-0123456789abcdef0';
const keys = { accessKeyId: 'AKIA', secretAccessKey: plantedSecret, sessionToken: null, expiresAtMs: null };

const inZone = (letter: string, change: Partial<MountTarget> = {}): MountTarget => ({
  mountTargetId: `fsmt-${letter}`,
  state: 'available',
  zone: `us-east-1${letter}`,
  zoneId: `use1-az${letter}`,
  ipv4: `10.0.0.${letter.charCodeAt(0)}`,
  ipv6: null,
  ...change,
});
const zoneA = { name: 'us-east-1a', id: 'use1-aza' };
const first = () => 0;

async function ask(
  targets: MountTarget[] | string,
  zone: string | null,
  { ec2 = null, random = first }: { ec2?: string | null; random?: () => number } = {},
) {
  const [efs, zones] = await Promise.all([startEfs(targets), startEc2(ec2)]);
  const environment = { AWS_ENDPOINT_URL_EFS: efs.url, AWS_ENDPOINT_URL_EC2: zones.url };
  const place = { region: 'us-east-1', dnsSuffix: 'amazonaws.com', environment };
  const answer = readMountTarget({ fileSystemId, keys, source: 'environment', place }, zone, random);
  answer.catch(() => undefined);
  return { answer, efs, zones };
}

async function refusal(answer: Promise<unknown>): Promise<AgentError> {
  const error = await answer.then(
    () => expect.fail('there was an answer'),
    (thrown: AgentError) => thrown,
  );
  expect(error.name).toBe('AgentError');
  expect(JSON.stringify(error.toMessage())).not.toContain(plantedSecret);
  return error;
}

test('the mount target in the zone that was asked for is found by the id of the zone, after a rehearsal', async () => {
  const { answer, efs, zones } = await ask([inZone('b'), inZone('a'), inZone('c')], 'us-east-1a');

  expect(await answer).toEqual({ mountTargetId: 'fsmt-a', zone: 'us-east-1a', addresses: ['10.0.0.97'] });
  expect(efs.asked).toMatchObject([
    { method: 'GET', path: `/2015-02-01/mount-targets?FileSystemId=${fileSystemId}` },
  ]);
  expect(efs.asked[0]!.headers.authorization).toContain('/us-east-1/elasticfilesystem/aws4_request');
  const questions = zones.asked.map(({ body }) => new URLSearchParams(body));
  expect(questions.map((question) => [question.get('ZoneName.1'), question.get('DryRun')])).toEqual([
    ['us-east-1a', 'true'],
    ['us-east-1a', 'false'],
  ]);
});

test('without a zone any mount target that is available is taken, and EC2 is not asked', async () => {
  const targets = [inZone('a', { state: 'creating' }), inZone('b'), inZone('c')];
  const { answer, zones } = await ask(targets, null, { random: () => 0.99 });

  expect((await answer).mountTargetId).toBe('fsmt-c');
  expect(zones.asked).toHaveLength(0);
});

test('IPv4 comes before IPv6, and IPv6 alone will do', async () => {
  const both = await ask([inZone('a', { ipv6: 'fd00::1' })], null);
  const only = await ask([inZone('a', { ipv4: null, ipv6: 'fd00::1' })], null);

  expect((await both.answer).addresses).toEqual(['10.0.0.97', 'fd00::1']);
  expect((await only.answer).addresses).toEqual(['fd00::1']);
});

test.each<[string, MountTarget[], string | null, string, string]>([
  ['no mount target', [], null, 'has no mount target', 'Create a mount target'],
  ['no mount target, in a zone', [], 'us-east-1a', 'has no mount target', 'Create a mount target'],
  [
    'none that is available',
    [inZone('a', { state: 'creating' }), inZone('b', { state: 'deleting' })],
    null,
    'no mount target that is available: fsmt-a is creating, fsmt-b is deleting',
    'in 5 minutes',
  ],
  ...['creating', 'updating', 'error'].map((state): [string, MountTarget[], string, string, string] => [
    `one that is ${state}`,
    [inZone('a', { state }), inZone('b')],
    'us-east-1a',
    `fsmt-a of ${fileSystemId} in us-east-1a is ${state}`,
    'in 5 minutes',
  ]),
  ...['deleting', 'deleted'].map((state): [string, MountTarget[], string, string, string] => [
    `one that is ${state}`,
    [inZone('a', { state }), inZone('b')],
    'us-east-1a',
    `fsmt-a of ${fileSystemId} in us-east-1a is ${state}`,
    'Create a new mount target',
  ]),
  [
    'only other zones',
    [inZone('b'), inZone('c'), inZone('d', { state: 'deleted' })],
    'us-east-1a',
    'no mount target in us-east-1a (use1-aza); it has some in us-east-1b, us-east-1c',
    'az=<zone>',
  ],
])('a file system with %s says so, and what to do', async (_, targets, zone, phrase, hint) => {
  const { answer } = await ask(targets, zone);

  const error = await refusal(answer);

  expect(error).toMatchObject({ code: 'dns.not-found', message: expect.stringContaining(phrase) });
  expect(error.hint).toContain(hint);
});

test.each([
  ['FileSystemNotFound', 'dns.not-found', `EFS knows no ${fileSystemId} in us-east-1`],
  ['AccessDeniedException', 'credentials.rejected', 'does not allow elasticfilesystem:DescribeMountTargets'],
  ['ServiceUnavailableException', 'dns.failed', 'is unavailable: ServiceUnavailableException'],
  ['ExpiredTokenException', 'credentials.rejected', 'answered ExpiredTokenException'],
  ['InternalServerError', 'dns.failed', 'answered InternalServerError'],
])('%s of EFS is told as %s', async (answered, code, phrase) => {
  const { answer } = await ask(answered, null);

  expect(await refusal(answer)).toMatchObject({ code, message: expect.stringContaining(phrase) });
});

test.each([
  ['UnauthorizedOperation', 'credentials.rejected', 'does not allow ec2:DescribeAvailabilityZones'],
  ['InvalidParameterValue', 'dns.not-found', 'EC2 knows no availability zone us-east-1a in us-east-1'],
  ['AuthFailure', 'credentials.rejected', 'answered AuthFailure'],
])('%s of EC2 is told as %s', async (answered, code, phrase) => {
  const { answer } = await ask([inZone('a')], 'us-east-1a', { ec2: answered });

  expect(await refusal(answer)).toMatchObject({ code, message: expect.stringContaining(phrase) });
});

test.each([
  ['nothing listens', async () => closedEndpoint],
  [
    'the answer is garbage',
    async () => (await startEndpoint((_, response) => response.end(`{${plantedSecret}`))).url,
  ],
  ['the connection is reset', () => startRawEndpoint((socket) => void socket.resetAndDestroy())],
])('when %s, the service and its address are named', async (_, start) => {
  const url = await start();
  const environment = { AWS_ENDPOINT_URL: url };
  const place = { region: 'us-east-1', dnsSuffix: 'amazonaws.com', environment };

  const error = await refusal(
    readMountTarget({ fileSystemId, keys, source: 'environment', place }, null, first),
  );

  expect(error).toMatchObject({
    code: 'dns.failed',
    message: expect.stringContaining(`EFS at ${new URL(url).host} gave no usable answer`),
  });
});

test('where the name of EFS resolves as little as that of the file system, what to do about names is said', async () => {
  const environment = { AWS_ENDPOINT_URL: 'http://efs.invalid' };
  const place = { region: 'us-east-1', dnsSuffix: 'amazonaws.com', environment };

  const error = await refusal(
    readMountTarget({ fileSystemId, keys, source: 'environment', place }, null, first),
  );

  expect(error.message).toMatch(/^EFS at efs\.invalid gave no usable answer \((?:EAI_AGAIN|ENOTFOUND)\)$/);
  expect(error.details).toEqual({});
});

test('an EFS that never answers is given up within about five seconds', async () => {
  const place = {
    region: 'us-east-1',
    dnsSuffix: 'amazonaws.com',
    environment: { AWS_ENDPOINT_URL_EFS: await startRawEndpoint(() => undefined) },
  };
  const startedMs = performance.now();

  const error = await refusal(
    readMountTarget({ fileSystemId, keys, source: 'environment', place }, null, first),
  );

  expect(performance.now() - startedMs).toBeLessThan(6_500);
  expect(error).toMatchObject({ code: 'dns.failed', message: expect.stringContaining('in time') });
});

test('whatever targets there are, the one chosen is available, has an address and is in the zone if one is named', () => {
  const target = fc.record({
    mountTargetId: fc.stringMatching(/^fsmt-[0-9a-f]{4}$/),
    state: fc.constantFrom('available', 'creating', 'updating', 'error', 'deleting', 'deleted', 'new'),
    zone: fc.constantFrom('us-east-1a', 'us-east-1b', null),
    zoneId: fc.constantFrom('use1-aza', 'use1-azb', null),
    ipv4: fc.constantFrom('10.0.0.1', null),
    ipv6: fc.constantFrom('fd00::1', null),
  });
  const random = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
  fc.assert(
    fc.property(fc.array(target), fc.constantFrom(zoneA, null), random, (targets, zone, drawn) => {
      const fits = (one: MountTarget) =>
        one.state === 'available' &&
        (one.ipv4 ?? one.ipv6) !== null &&
        (zone === null || one.zoneId === zone.id);
      try {
        const chosen = chooseMountTarget(fileSystemId, targets, zone, () => drawn);
        expect(targets).toContain(chosen);
        expect(fits(chosen)).toBe(true);
      } catch (thrown) {
        if ((thrown as AgentError).code !== 'dns.not-found') throw thrown;
        expect(targets.some(fits)).toBe(false);
      }
    }),
  );
});

test('without a zone every mount target that is available can be drawn', () => {
  const targets = [inZone('a'), inZone('b'), inZone('c')];
  const drawn = [0, 0.34, 0.67, 0.999].map((number) =>
    chooseMountTarget(fileSystemId, targets, null, () => number),
  );

  expect(drawn.map(({ mountTargetId }) => mountTargetId)).toEqual(['fsmt-a', 'fsmt-b', 'fsmt-c', 'fsmt-c']);
});
