import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  isFileSystemId,
  isHostName,
  isRegionName,
  isZoneName,
  orderByNearness,
  parseFileSystemName,
  planDnsName,
  regionInFormat,
  tlsServerName,
} from '../../src/core/endpoint.ts';

const shippedFormat = '{az}.{fs_id}.efs.{region}.{dns_name_suffix}';
const parts = {
  format: shippedFormat,
  fileSystemId: 'fs-0123abcd',
  region: 'us-east-1',
  suffix: 'amazonaws.com',
  zone: null,
};

const hex = (min: number, max: number) =>
  fc.string({ unit: fc.constantFrom(...'0123456789abcdef'), minLength: min, maxLength: max });
const fileSystemIds = hex(1, 40).map((digits) => `fs-${digits}`);
const regions = fc
  .tuple(fc.constantFrom('us', 'eu', 'ap', 'cn', 'us-gov'), fc.constantFrom('east', 'northwest'), fc.nat(9))
  .map(([area, side, number]) => `${area}-${side}-${number}`);
const suffixes = fc.constantFrom('amazonaws.com', 'amazonaws.com.cn', 'cloud.adc-e.uk', 'c2s.ic.gov');

test('the shipped template without a zone gives the regional name', () => {
  expect(planDnsName(parts)).toBe('fs-0123abcd.efs.us-east-1.amazonaws.com');
});

test('the shipped template with a zone gives the zonal name', () => {
  expect(planDnsName({ ...parts, zone: 'us-east-1a' })).toBe(
    'us-east-1a.fs-0123abcd.efs.us-east-1.amazonaws.com',
  );
});

test("the name of another account's file system begins with our zone id, whatever the template says", () => {
  const name = planDnsName({ ...parts, format: '{fs_id}.x', crossAccountZoneId: 'use1-az4' });

  expect(name).toBe('use1-az4.fs-0123abcd.efs.us-east-1.amazonaws.com');
  expect(tlsServerName(name, 'fs-0123abcd')).toBe('fs-0123abcd.efs.us-east-1.amazonaws.com');
});

test.each([
  ['{fs_id}.efs.eu-west-1.{dns_name_suffix}', 'eu-west-1'],
  ['{fs_id}.efs.eu-west-1.amazonaws.com', 'eu-west-1'],
  ['{az}.{fs_id}.efs.{region}.{dns_name_suffix}', null],
  ['{fs_id}.nfs.example.org', null],
  ['{fs_id}', null],
  ['{fs_id}.{dns_name_suffix}', null],
])('the region in the template %s is %s', (format, region) => {
  expect(regionInFormat(format)).toBe(region);
});

test('a template tells a region name or none', () => {
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom('.', '{region}', '{dns_name_suffix}', 'amazonaws.com', 'eu-1', 'X'), {
        maxLength: 8,
      }),
      (pieces) => {
        const region = regionInFormat(pieces.join(''));

        expect(region === null || isRegionName(region)).toBe(true);
      },
    ),
  );
});

const networks = [
  { address: '10.1.1.10', prefixBits: 24 },
  { address: 'fd00:1::5', prefixBits: 64 },
  { address: 'fe80::1%eth0', prefixBits: 64 },
];

test('addresses in a network of this machine come first, the others keep their order', () => {
  expect(orderByNearness(['10.2.0.1', '10.1.1.200', 'fd00:2::1', 'fd00:1::9'], networks)).toEqual([
    '10.1.1.200',
    'fd00:1::9',
    '10.2.0.1',
    'fd00:2::1',
  ]);
  expect(orderByNearness(['10.2.0.1', '10.3.0.1'], [])).toEqual(['10.2.0.1', '10.3.0.1']);
  expect(
    orderByNearness(['::ffff:10.1.1.1', '10.1.0.1'], [{ address: '::ffff:10.1.1.9', prefixBits: 120 }]),
  ).toEqual(['::ffff:10.1.1.1', '10.1.0.1']);
});

test('ordering addresses never loses, adds or doubts one', () => {
  const address = fc.oneof(fc.ipV4(), fc.ipV6(), fc.string({ maxLength: 12 }));
  const network = fc.record({ address, prefixBits: fc.nat(128) });
  fc.assert(
    fc.property(fc.uniqueArray(address), fc.array(network, { maxLength: 3 }), (addresses, some) => {
      expect(orderByNearness(addresses, some).toSorted()).toEqual(addresses.toSorted());
    }),
  );
});

test.each([
  ['us-east-1a', true],
  ['use1-az4', true],
  ['us-east-1-bos-1a', true],
  ['', false],
  ['-a', false],
  ['a.b', false],
  ['A', false],
])('the zone %j is well formed: %s', (name, wellFormed) => {
  expect(isZoneName(name)).toBe(wellFormed);
});

test('region and suffix may be written into the template', () => {
  expect(planDnsName({ ...parts, format: '{fs_id}.nfs.example.org' })).toBe('fs-0123abcd.nfs.example.org');
});

test.each([
  'efs.{region}.amazonaws.com',
  '{fs_id}.{zone}.x',
  '{fs_id}.{az}',
  '{fs_id}.{region',
  '{fs_id}}.x',
  '{fs_id}..x',
  '{fs_id} x',
])('the template %s is refused as invalid configuration', (format) => {
  expect(() => planDnsName({ ...parts, format })).toThrow(
    expect.objectContaining({ code: 'config.invalid' }),
  );
});

test('a planned name reads back as the file system, zone and region it was made of', () => {
  fc.assert(
    fc.property(
      fileSystemIds,
      regions,
      suffixes,
      fc.option(fc.constantFrom('us-east-1a', 'use1-az2')),
      (fileSystemId, region, suffix, zone) => {
        const name = planDnsName({ format: shippedFormat, fileSystemId, region, suffix, zone });

        expect(parseFileSystemName(name)).toEqual({ zone, fileSystemId, region, suffix });
        expect(tlsServerName(name, fileSystemId)).toBe(`${fileSystemId}.efs.${region}.${suffix}`);
      },
    ),
  );
});

test.each([
  'example.com',
  'FS-0123ABCD.efs.us-east-1.amazonaws.com',
  'a.b.fs-0123abcd.efs.us-east-1.amazonaws.com',
  'fs-0123abcd.us-east-1',
  'fs-0123abcd.efs.us-east-1',
  'fs-xyz.efs.us-east-1.amazonaws.com',
  '',
])('%j is not the name of a file system', (name) => {
  expect(parseFileSystemName(name)).toBeNull();
});

test('reading a name never throws and takes no long time', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom('a', '-', '.', '1', 'fs-', 'A'), maxLength: 300 }),
      (name) => {
        parseFileSystemName(name);
      },
    ),
  );
});

test.each(['us-east-1', 'us-gov-west-1', 'a', '1', 'x'.repeat(32)])('%s is a region name', (name) => {
  expect(isRegionName(name)).toBe(true);
});

test.each(['', '-us', 'us-', 'US-EAST-1', 'us_east', 'us-east-1\n', 'us.east', 'x'.repeat(33), '../../x'])(
  '%j is not a region name',
  (name) => {
    expect(isRegionName(name)).toBe(false);
  },
);

test('file system ids are fs- and lower-case hexadecimal digits of any number', () => {
  fc.assert(fc.property(fileSystemIds, (id) => isFileSystemId(id)));
  for (const id of ['fs-', 'fs-ABC', 'fs-0g', 'xfs-01', 'fs-01\n']) expect(isFileSystemId(id)).toBe(false);
});

test('a host name has no empty label, no blank, no slash and no bracket', () => {
  for (const name of ['a', 'a.b', 'a.b.', 'under_score.x', '10.0.0.1']) expect(isHostName(name)).toBe(true);
  for (const name of ['', '.', 'a..b', '-a', 'a-', 'a b', 'a/b', '[::1]', `${'a'.repeat(64)}.b`])
    expect(isHostName(name)).toBe(false);
});
