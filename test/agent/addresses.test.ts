import { expect, test } from 'vitest';
import {
  type AddressPlan,
  type AddressPorts,
  asServer,
  createAddressFinder,
} from '../../src/agent/addresses.ts';
import { AgentError } from '../../src/core/errors.ts';
import type { MountTargetsRequest } from '../../src/core/identity-protocol.ts';
import { FakeClock } from '../support/fake-clock.ts';

const dnsName = 'fs-0123abcd.efs.us-east-1.amazonaws.com';
const plan: AddressPlan = {
  fileSystemId: 'fs-0123abcd',
  region: 'us-east-1',
  dnsSuffix: 'amazonaws.com',
  dnsName,
  askApi: true,
  spec: {
    mountTargetIp: null,
    zone: null,
    awsProfile: null,
    awsCredsUri: null,
    roleArn: null,
    jwtPath: null,
  },
};
const caller = { environment: {}, metadataEndpoint: null };
const notFound = new AgentError('dns.not-found', `Failed to resolve "${dnsName}": the name does not exist`);

interface World {
  names: Map<string, string[]>;
  api: string[] | AgentError;
  nowMs: number;
  asked: string[];
  apiRequests: MountTargetsRequest[];
  stale: number;
}

function openWorld(changes: Partial<World> = {}): World & { ports: AddressPorts } {
  const world: World = {
    names: new Map(),
    api: new AgentError('credentials.missing', 'no credentials'),
    nowMs: 0,
    asked: [],
    apiRequests: [],
    stale: 0,
    ...changes,
  };
  const ports: AddressPorts = {
    clock: { nowMs: () => world.nowMs, monoMs: () => world.nowMs, schedule: () => ({ cancel() {} }) },
    async resolveName(name) {
      world.asked.push(name);
      const found = world.names.get(name);
      if (found === undefined) throw notFound;
      return found;
    },
    readNetworks: () => [{ address: '10.1.1.10', prefixBits: 24 }],
    identities: {
      async mountTargets(_caller, request) {
        world.apiRequests.push(request);
        if (world.api instanceof AgentError) throw world.api;
        return { mountTargetId: 'fsmt-1', zone: 'us-east-1a', addresses: world.api };
      },
    },
  };
  return Object.assign(world, { ports });
}

const finderOf = (world: World & { ports: AddressPorts }, changes: Partial<AddressPlan> = {}) =>
  createAddressFinder(world.ports, { ...plan, ...changes }, caller, () => {
    world.stale += 1;
  });

test('an address that was given is used, and no name is asked for', async () => {
  const world = openWorld();

  const found = await finderOf(world, { spec: { ...plan.spec, mountTargetIp: 'fd00::7' } })();

  expect(found).toEqual({ list: ['fd00::7'], by: 'option' });
  expect(world.asked).toEqual([]);
});

test('a name with several addresses gives the one in our own subnet first', async () => {
  const world = openWorld({ names: new Map([[dnsName, ['10.2.2.2', 'fd00::7', '10.1.1.6']]]) });

  expect(await finderOf(world)()).toMatchObject({ list: ['10.1.1.6', '10.2.2.2', 'fd00::7'], by: 'name' });
  expect(world.apiRequests).toEqual([]);
});

test('a name that resolves only without the search list is found', async () => {
  const world = openWorld({ names: new Map([[`${dnsName}.`, ['10.1.1.6']]]) });

  expect(await finderOf(world)()).toMatchObject({ list: ['10.1.1.6'], by: 'name' });
});

test('a name that cannot be resolved is asked of the API, in the zone and with the credentials of the mount', async () => {
  const world = openWorld({ api: ['10.1.1.6'] });

  const found = await finderOf(world, { spec: { ...plan.spec, zone: 'us-east-1a', awsProfile: 'p' } })();

  expect(found).toMatchObject({ list: ['10.1.1.6'], by: 'api' });
  expect(world.apiRequests).toEqual([
    {
      fileSystemId: 'fs-0123abcd',
      zone: 'us-east-1a',
      region: 'us-east-1',
      dnsSuffix: 'amazonaws.com',
      credentials: { awsProfile: 'p', awsCredsUri: null, roleArn: null, jwtPath: null },
    },
  ]);
});

test('when neither knows an address the error has both reasons', async () => {
  await expect(finderOf(openWorld())()).rejects.toMatchObject({
    code: 'dns.not-found',
    message: `${notFound.message}; asking the EFS API for its address failed too: no credentials`,
  });
});

test('where the API is not to be asked it is not', async () => {
  const world = openWorld({ api: ['10.1.1.6'] });

  await expect(finderOf(world, { askApi: false })()).rejects.toBe(notFound);
  expect(world.apiRequests).toEqual([]);
});

test('addresses are asked for again after ten seconds, and the old ones serve while nobody answers', async () => {
  const world = openWorld({ names: new Map([[dnsName, ['10.1.1.6']]]) });
  const find = finderOf(world);
  await find();
  await find();
  expect(world.asked).toHaveLength(1);

  world.nowMs = 10_000;
  world.names.clear();

  expect((await find()).list).toEqual(['10.1.1.6']);
  expect(world.stale).toBe(1);
  world.names.set(dnsName, ['10.1.1.7']);
  expect((await find()).list).toEqual(['10.1.1.7']);
});

test('two connections at once ask once', async () => {
  const world = openWorld({ names: new Map([[dnsName, ['10.1.1.6']]]) });
  const find = finderOf(world);

  await Promise.all([find(), find(), find()]);

  expect(world.asked).toEqual([dnsName]);
});

test('an IPv6 address stands in brackets before a path', () => {
  expect([asServer('10.0.0.1'), asServer('fd00::7')]).toEqual(['10.0.0.1', '[fd00::7]']);
});

test('a name server that hangs keeps no connection waiting whose mount target was known, and its answer counts when it comes', async () => {
  const clock = new FakeClock(0);
  const world = openWorld({ names: new Map([[dnsName, ['10.1.1.6']]]) });
  let answer: (addresses: string[]) => void = () => {};
  const ports: AddressPorts = { ...world.ports, clock };
  const find = createAddressFinder(ports, { ...plan, askApi: false }, caller, () => {
    world.stale += 1;
  });
  await find();
  await clock.pass(60_000);
  ports.resolveName = () =>
    new Promise((resolve) => {
      answer = resolve;
    });

  const whileItHangs = find();
  await clock.pass(1_000);
  answer(['10.1.1.7']);
  await clock.pass(0);

  expect(await whileItHangs).toMatchObject({ list: ['10.1.1.6'] });
  expect(world.stale).toBe(1);
  expect(await find()).toMatchObject({ list: ['10.1.1.7'] });
});
