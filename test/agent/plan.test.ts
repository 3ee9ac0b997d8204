import { expect, test } from 'vitest';
import { type PlanPorts, planMount, planRecordedMount, readOnce } from '../../src/agent/plan.ts';
import { parseConfig } from '../../src/core/config.ts';
import { AgentError } from '../../src/core/errors.ts';
import type { InstanceFacts } from '../../src/core/identity-protocol.ts';
import { parseMountSpec, parseOptions } from '../../src/core/mount-spec.ts';

const instance: InstanceFacts = {
  region: 'us-east-1',
  availabilityZone: 'us-east-1a',
  instanceId: 'i-0123456789abcdef0',
  accountId: '111122223333',
  availabilityZoneId: 'use1-az4',
};

interface World {
  config: string;
  environment: Record<string, string>;
  instance: InstanceFacts | AgentError;
  canonical: Record<string, string>;
  names: string[];
  fips: boolean;
}

function openWorld(changes: Partial<World>): { world: World; ports: PlanPorts } {
  const world: World = {
    config: '',
    environment: {},
    instance,
    canonical: {},
    names: [],
    fips: false,
    ...changes,
  };
  const ports: PlanPorts = {
    log: () => {},
    random: () => 0.5,
    version: '1',
    hostName: 'host',
    cryptoIsFips: () => world.fips,
    readConfig: async () => parseConfig([{ path: '/efs-utils.conf', text: world.config }]),
    readTrustedRoots: async (path) => [path],
    resolveName: async (name) => {
      if (world.names.includes(name)) return ['10.0.0.1'];
      throw new AgentError('dns.not-found', `Failed to resolve "${name}": it does not exist`);
    },
    resolveCanonicalName: async (name) => world.canonical[name] ?? name,
    identities: {
      async instance() {
        if (world.instance instanceof AgentError) throw world.instance;
        return world.instance;
      },
    },
  };
  return { world, ports };
}

function planOf(options: string, changes: Partial<World> = {}, device = 'fs-0123abcd') {
  const { world, ports } = openWorld(changes);
  const spec = parseMountSpec(device, parseOptions(options));
  const { environment } = world;
  return planMount(ports, { spec, mountPoint: '/mnt', environment, callerSocket: null }).then(
    ({ plan }) => plan,
  );
}

const noMetadata = new AgentError('metadata.unavailable', 'metadata does not answer');

/** Specification 3.2, step by step: each source is weaker than the ones before it. */
test.each<[string, string, Partial<World>, string]>([
  ['the option', 'tls,region=eu-1', { environment: { AWS_REGION: 'eu-2' } }, 'eu-1'],
  ['AWS_REGION', 'tls', { environment: { AWS_REGION: 'eu-2', AWS_DEFAULT_REGION: 'eu-3' } }, 'eu-2'],
  [
    'AWS_DEFAULT_REGION',
    'tls',
    { environment: { AWS_DEFAULT_REGION: 'eu-3' }, config: '[mount]\nregion=eu-4' },
    'eu-3',
  ],
  ['the configuration', 'tls', { config: '[mount]\nregion=eu-4' }, 'eu-4'],
  ['the template', 'tls', { config: '[mount]\ndns_name_format={fs_id}.efs.eu-5.{dns_name_suffix}' }, 'eu-5'],
  ['the instance', 'tls', {}, 'us-east-1'],
])('the region comes from %s', async (_source, options, world, region) => {
  expect((await planOf(options, world)).region).toBe(region);
});

test('a region that nobody knows, and one that is none, are errors that say so', async () => {
  await expect(planOf('tls', { instance: noMetadata })).rejects.toMatchObject({ code: 'region.unknown' });
  await expect(planOf('tls', { environment: { AWS_REGION: '../x' } })).rejects.toMatchObject({
    code: 'region.malformed',
    message: 'AWS_REGION is "../x", which is not the name of a region',
  });
});

test.each([
  ['tls', 'fs-0123abcd.efs.us-east-1.amazonaws.com'],
  ['tls,az=us-east-1a', 'us-east-1a.fs-0123abcd.efs.us-east-1.amazonaws.com'],
  ['tls,region=cn-north-1', 'fs-0123abcd.efs.cn-north-1.amazonaws.com.cn'],
  ['tls,region=cn-northwest-1', 'fs-0123abcd.efs.cn-northwest-1.amazonaws.com.cn'],
  ['tls,region=us-gov-west-1', 'fs-0123abcd.efs.us-gov-west-1.amazonaws.com'],
  ['tls,region=eu-isoe-west-1', 'fs-0123abcd.efs.eu-isoe-west-1.cloud.adc-e.uk'],
  ['tls,region=eusc-de-east-1', 'fs-0123abcd.efs.eusc-de-east-1.amazonaws.eu'],
  ['tls,region=us-iso-east-1', 'fs-0123abcd.efs.us-iso-east-1.c2s.ic.gov'],
  ['tls,region=us-iso-west-1', 'fs-0123abcd.efs.us-iso-west-1.c2s.ic.gov'],
  ['tls,region=us-isob-east-1', 'fs-0123abcd.efs.us-isob-east-1.sc2s.sgov.gov'],
  ['tls,region=us-isob-west-1', 'fs-0123abcd.efs.us-isob-west-1.sc2s.sgov.gov'],
  ['tls,region=us-isof-east-1', 'fs-0123abcd.efs.us-isof-east-1.csp.hci.ic.gov'],
  ['tls,region=us-isof-south-1', 'fs-0123abcd.efs.us-isof-south-1.csp.hci.ic.gov'],
  ['tls,crossaccount', 'use1-az4.fs-0123abcd.efs.us-east-1.amazonaws.com'],
  ['tls,crossaccount,az=us-east-1a', 'use1-az4.fs-0123abcd.efs.us-east-1.amazonaws.com'],
])(
  'with %s the name is %s, and the certificate is checked from the file system id on',
  async (options, name) => {
    const plan = await planOf(options);

    expect(plan.dnsName).toBe(name);
    expect(plan.serverName).toBe(name.slice(name.indexOf('fs-')));
  },
);

test('crossaccount takes the configured zone id where metadata is silent, asks no API, and says what it lacks', async () => {
  const config = '[mount]\naz_id = use1-az9\nregion = us-east-1';

  expect(await planOf('tls,crossaccount', { config, instance: noMetadata })).toMatchObject({
    dnsName: 'use1-az9.fs-0123abcd.efs.us-east-1.amazonaws.com',
    askApi: false,
  });
  await expect(planOf('tls,crossaccount,region=us-east-1', { instance: noMetadata })).rejects.toMatchObject({
    code: 'zone.unknown',
    message: expect.stringContaining('AZ-ID metadata'),
  });
  await expect(planOf('tls,crossaccount,az=us-east-1b')).rejects.toMatchObject({
    code: 'option.conflict',
    message: expect.stringContaining('does not match the az provided'),
  });
});

const zonal = 'us-east-1a.fs-0123abcd.efs.us-east-1.amazonaws.com';

test.each([
  ['fs-0123abcd.efs.us-east-1.amazonaws.com', 'tls', 'fs-0123abcd.efs.us-east-1.amazonaws.com'],
  [zonal, 'tls', zonal],
  [zonal, 'tls,az=us-east-1a', zonal],
  ['files.example.org', 'tls', zonal],
  ['fs-0123abcd.efs.eu-west-1.amazonaws.com', 'tls', 'fs-0123abcd.efs.eu-west-1.amazonaws.com'],
])('the device %s with %s is %s', async (device, options, name) => {
  const plan = await planOf(options, { canonical: { 'files.example.org': zonal } }, device);

  expect(plan).toMatchObject({ dnsName: name, fileSystemId: 'fs-0123abcd' });
});

test.each<[string, string, Partial<World>, string, string]>([
  ['files.example.org', 'tls', {}, 'dns.not-found', 'Failed to resolve "files.example.org"'],
  [
    'nas.example.org',
    'tls',
    { names: ['nas.example.org'] },
    'spec.malformed',
    'did not resolve to a valid DNS name',
  ],
  [zonal, 'tls,az=us-east-1b', {}, 'option.conflict', 'does not match the az provided'],
  [zonal, 'tls,region=eu-west-1', {}, 'spec.malformed', 'did not resolve to a valid DNS name'],
])('the device %s with %s is refused', async (device, options, world, code, fragment) => {
  await expect(planOf(options, world, device)).rejects.toMatchObject({
    code,
    message: expect.stringContaining(fragment),
  });
});

test('OCSP in the configuration refuses a mount with tls, unless it has noocsp', async () => {
  const config = '[mount]\nstunnel_check_cert_validity = true';

  await expect(planOf('tls', { config })).rejects.toMatchObject({ code: 'config.invalid' });
  expect((await planOf('tls,noocsp', { config })).spec.noOcsp).toBe(true);
  expect((await planOf('', { config })).spec.tls).toBe(false);
});

test('FIPS mode is kept or refused, and travels to the AWS SDK', async () => {
  const config = '[mount]\nfips_mode_enabled = true';

  await expect(planOf('tls', { config })).rejects.toThrow('FIPS mode is asked for (fips_mode_enabled)');
  await expect(planOf('tls', { environment: { AWS_USE_FIPS_ENDPOINT: 'True' } })).rejects.toThrow(
    'AWS_USE_FIPS_ENDPOINT',
  );
  expect((await planOf('tls', { config, fips: true })).environment).toEqual({
    AWS_USE_FIPS_ENDPOINT: 'true',
  });
});

test('the roots are those of the option, then of the region, then of the configuration', async () => {
  const config = '[mount]\nstunnel_cafile = /mount.pem\n[mount.us-east-1]\nstunnel_cafile = /region.pem';

  expect((await planOf('tls,cafile=/option.pem', { config })).trustedRootsPem).toEqual(['/option.pem']);
  expect((await planOf('tls', { config })).trustedRootsPem).toEqual(['/region.pem']);
  expect((await planOf('tls,region=eu-west-1', { config })).trustedRootsPem).toEqual(['/mount.pem']);
  expect((await planOf('', { config })).trustedRootsPem).toEqual([]);
});

test('an agent that takes up many mounts reads the configuration and each CA file once', async () => {
  const { ports } = openWorld({});
  const read: string[] = [];
  const counting = readOnce({
    ...ports,
    readConfig() {
      read.push('configuration');
      return ports.readConfig();
    },
    readTrustedRoots(path, named) {
      read.push(path);
      return ports.readTrustedRoots(path, named);
    },
  });

  const plans = await Promise.all(
    ['tls', 'tls', 'tls,cafile=/a.pem', 'tls,cafile=/a.pem'].map((options, index) =>
      planRecordedMount(counting, {
        mountId: `m${index}`,
        fileSystemId: 'fs-0123abcd',
        accessPointId: null,
        path: '/',
        mountPoint: `/mnt/${index}`,
        port: 20_049 + index,
        dnsName: 'fs-0123abcd.efs.us-east-1.amazonaws.com',
        region: 'us-east-1',
        spec: parseMountSpec('fs-0123abcd', parseOptions(options)),
        environment: {},
        createdAtMs: 0,
        callerSocket: null,
      }),
    ),
  );

  expect(plans.map(({ localPorts }) => localPorts.lower)).toEqual([20_049, 20_050, 20_051, 20_052]);
  expect(plans[3]!.trustedRootsPem).toEqual(['/a.pem']);
  expect(read.filter((name) => name === 'configuration')).toHaveLength(1);
  expect(read.filter((name) => name === '/a.pem')).toHaveLength(1);
  expect(read).toHaveLength(3);
});
