import { isIP } from 'node:net';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { AgentError } from '../../src/core/errors.ts';
import {
  checkMountSpec,
  formatOptions,
  isAddressLiteral,
  parseHelperArgv,
  parseMountSpec,
  parseOptions,
  parseUmountArgv,
} from '../../src/core/mount-spec.ts';

const fileSystem = 'fs-096bc04e855823d2e';
const accessPoint = 'fsap-0123456789abcdef0';

function specOf(options: string, device = fileSystem) {
  return parseMountSpec(device, parseOptions(options));
}

function failureOf(run: () => unknown): AgentError {
  try {
    run();
  } catch (error) {
    if (error instanceof AgentError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

const optionNames = fc.string({
  unit: fc.constantFrom('a', 'x', '-', '.', '_', '1', ':'),
  minLength: 1,
  maxLength: 8,
});
const optionValues = fc.oneof(
  fc.string({ unit: fc.constantFrom('a', '=', ':', '/', '.', 'é'), maxLength: 10 }),
  fc.string({ unit: fc.constantFrom('a', ',', ' ', '='), maxLength: 10 }).map((text) => `"${text}"`),
);
const optionLists = fc.uniqueArray(fc.record({ name: optionNames, value: fc.option(optionValues) }), {
  selector: ({ name }) => name,
});

test('the command line mount(8) writes is read', () => {
  expect(parseHelperArgv([fileSystem, '/mnt/efs', '-f', '-n', '-v', '-s', '-o', 'rw,tls,iam'])).toEqual({
    kind: 'mount',
    device: fileSystem,
    mountPoint: '/mnt/efs',
    options: [
      { name: 'rw', value: null },
      { name: 'tls', value: null },
      { name: 'iam', value: null },
    ],
    fake: true,
    verbose: true,
    sloppy: true,
  });
});

test('flags and operands may stand in any order, clustered, repeated and attached', () => {
  const usual = parseHelperArgv([fileSystem, '/mnt', '-f', '-v', '-o', 'tls', '-o', 'iam']);

  expect(parseHelperArgv(['-fv', '-o', 'tls', fileSystem, '-o', 'iam', '/mnt'])).toEqual(usual);
  expect(parseHelperArgv(['-otls', fileSystem, '-vfoiam', '/mnt'])).toEqual(usual);
  expect(parseHelperArgv(['-fv', '-o', 'tls,iam', '-t', 'efs', '--', fileSystem, '/mnt'])).toEqual(usual);
});

test('any order of the same arguments asks for the same mount', () => {
  const groups = [['-f'], ['-v'], ['-s'], ['-n'], ['-t', 'efs'], ['-o', 'tls,iam']];
  const usual = parseHelperArgv([fileSystem, '/mnt', ...groups.flat()]);
  fc.assert(
    fc.property(fc.shuffledSubarray([...groups, null, null], { minLength: 8 }), (order) => {
      const operands = [fileSystem, '/mnt'];
      const argv = order.flatMap((group) => group ?? [operands.shift()!]);

      expect(parseHelperArgv(argv)).toEqual(usual);
    }),
  );
});

test('a repeated option in a later -o takes the place of the earlier one', () => {
  const invocation = parseHelperArgv(['-o', 'region=a,tls', fileSystem, '/mnt', '-o', 'region=b']);

  expect(invocation).toMatchObject({
    options: [
      { name: 'region', value: 'b' },
      { name: 'tls', value: null },
    ],
  });
});

test('help and version are answered wherever they stand, even with nothing else', () => {
  expect(parseHelperArgv(['-h'])).toEqual({ kind: 'help' });
  expect(parseHelperArgv([fileSystem, '--help'])).toEqual({ kind: 'help' });
  expect(parseHelperArgv(['--version'])).toEqual({ kind: 'version' });
  expect(parseUmountArgv(['--help'])).toEqual({ kind: 'help' });
  expect(parseUmountArgv(['/mnt', '--version'])).toEqual({ kind: 'version' });
});

test.each([
  [[]],
  [[fileSystem]],
  [[fileSystem, '']],
  [[fileSystem, '/a', '/b']],
  [[fileSystem, '/a', '-z']],
  [[fileSystem, '/a', '--tls']],
  [[fileSystem, '/a', '-o']],
  [[fileSystem, '/a', '-t', 'nfs4']],
])('the arguments %j are a usage error', (argv) => {
  expect(failureOf(() => parseHelperArgv(argv)).code).toBe('usage');
});

test('another mount namespace is refused, not ignored', () => {
  expect(failureOf(() => parseHelperArgv([fileSystem, '/mnt', '-N', '/proc/7/ns/mnt'])).code).toBe(
    'option.unsupported',
  );
  expect(failureOf(() => parseUmountArgv(['/mnt', '-N7'])).code).toBe('option.unsupported');
});

test('the command line umount(8) writes is read', () => {
  expect(parseUmountArgv(['/mnt/efs', '-n', '-l', '-fvr', '-t', 'efs.sub'])).toEqual({
    kind: 'umount',
    mountPoint: '/mnt/efs',
    lazy: true,
    force: true,
    verbose: true,
    readOnly: true,
  });
  expect(failureOf(() => parseUmountArgv(['/a', '/b'])).code).toBe('usage');
});

test('any arguments give an invocation or one explained error', () => {
  const words = fc.array(
    fc.oneof(
      fc.string({ maxLength: 6 }),
      fc.constantFrom('-o', '-fv', '--', '-', 'a=b,,"', '-h', '-N', '/mnt'),
    ),
  );
  fc.assert(
    fc.property(words, (argv) => {
      for (const parse of [parseHelperArgv, parseUmountArgv]) {
        try {
          parse(argv);
        } catch (error) {
          expect(error).toBeInstanceOf(AgentError);
        }
      }
    }),
  );
});

test('a value keeps its equals signs, and quotes protect a comma', () => {
  expect(parseOptions('a=b=c,context="s0:c1,c2",d')).toEqual([
    { name: 'a', value: 'b=c' },
    { name: 'context', value: '"s0:c1,c2"' },
    { name: 'd', value: null },
  ]);
});

test('empty items and blanks around items are dropped', () => {
  expect(parseOptions('')).toEqual([]);
  expect(parseOptions(',tls, iam ,,')).toEqual([
    { name: 'tls', value: null },
    { name: 'iam', value: null },
  ]);
});

test('a later duplicate replaces the earlier one in its place', () => {
  expect(formatOptions(parseOptions('a=1,b,a=2,c,b=3'))).toBe('a=2,b=3,c');
});

test('options named like properties of objects are options', () => {
  expect(formatOptions(parseOptions('__proto__=1,constructor,toString=2'))).toBe(
    '__proto__=1,constructor,toString=2',
  );
  expect(formatOptions(specOf('tls,__proto__=1,constructor').nfsOptions)).toBe('__proto__=1,constructor');
});

test.each(['=x', 'a b', 'a"b"=c', 'context="open', 'tls\n', 'a=\u0000'])(
  'the options %j are malformed',
  (text) => {
    expect(failureOf(() => parseOptions(text)).code).toBe('option.malformed');
  },
);

test('options that are written and read back stay the same', () => {
  fc.assert(
    fc.property(optionLists, (options) => {
      expect(parseOptions(formatOptions(options))).toEqual(options);
    }),
  );
});

test('any text is options or one explained error, and reading them again changes nothing', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom('a', ',', '=', '"', ' ', '\t', '\n', 'é', '\\'), maxLength: 30 }),
      (text) => {
        try {
          const options = parseOptions(text);
          expect(parseOptions(formatOptions(options))).toEqual(options);
        } catch (error) {
          expect(error).toMatchObject({ code: 'option.malformed' });
        }
      },
    ),
  );
});

test('the mount of the walk-through is understood', () => {
  expect(specOf('rw,tls,iam,_netdev')).toEqual({
    remote: { kind: 'file-system', id: fileSystem },
    path: '/',
    tls: true,
    iam: true,
    accessPoint: null,
    region: null,
    mountTargetIp: null,
    tlsPort: null,
    caFile: null,
    awsCredsUri: null,
    awsProfile: null,
    nfsOptions: [
      { name: 'rw', value: null },
      { name: '_netdev', value: null },
    ],
  });
});

test('every option of ours arrives in the spec and none in the options for the kernel', () => {
  const own = `tls,iam,accesspoint=${accessPoint},region=us-east-1,mounttargetip=10.0.0.1,tlsport=20100,cafile="/etc/a,b.pem",awsprofile=p`;

  expect(specOf(`${own},x-systemd.automount,nconnect=4`)).toMatchObject({
    accessPoint,
    region: 'us-east-1',
    mountTargetIp: '10.0.0.1',
    tlsPort: 20_100,
    caFile: '/etc/a,b.pem',
    awsProfile: 'p',
    nfsOptions: [
      { name: 'x-systemd.automount', value: null },
      { name: 'nconnect', value: '4' },
    ],
  });
});

test.each([
  [fileSystem, { kind: 'file-system', id: fileSystem }, '/'],
  ['fs-1:/a:b', { kind: 'file-system', id: 'fs-1' }, '/a:b'],
  [`${fileSystem}:`, { kind: 'file-system', id: fileSystem }, '/'],
  ['files.example.org:/x y', { kind: 'name', name: 'files.example.org' }, '/x y'],
  ['fs-data', { kind: 'name', name: 'fs-data' }, '/'],
])('the device %s is read', (device, remote, path) => {
  expect(specOf('tls', device)).toMatchObject({ remote, path });
});

test.each(['', ':/x', 'fs-1:x', 'FS-0ABC', 'fs-0ABC:/', '[::1]:/', 'a b', 'a/b:/c', 'fs-1:/a\nb', '-o'])(
  'the device %j is malformed',
  (device) => {
    expect(failureOf(() => specOf('tls', device)).code).toBe('spec.malformed');
  },
);

test.each([
  ['tls,port=1', 'option.conflict', 'options are mutually exclusive'],
  ['tls,notls', 'option.conflict', 'options are mutually exclusive'],
  ['tls,iam,awscredsuri=/x,awsprofile=p', 'option.conflict', 'options are mutually exclusive'],
  [
    `accesspoint=${accessPoint}`,
    'option.requires',
    'The "tls" option is required when mounting via "accesspoint"',
  ],
  ['iam', 'option.requires', 'The "tls" option is required when mounting via "iam"'],
  [
    'tls,awsprofile=p',
    'option.requires',
    'The "iam" option is required when mounting with named profile option, "awsprofile"',
  ],
  ['tls,awscredsuri=/x', 'option.requires', 'The "iam" option is required when mounting with "awscredsuri"'],
  ['tls,accesspoint=fsap-1', 'access-point.malformed', 'Access Point ID fsap-1 is malformed'],
  [`tls,accesspoint=${accessPoint.toUpperCase()}`, 'access-point.malformed', 'is malformed'],
  ['tls,iam,awscredsuri=x', 'option.malformed', 'awscredsuri x is malformed'],
  ['tls,tlsport=x', 'option.malformed', 'is not an integer'],
  ['tls,tlsport=1.5', 'option.malformed', 'is not an integer'],
  ['tls,tlsport=-1', 'option.malformed', 'between 1 and 65535'],
  ['tls,tlsport=70000', 'option.malformed', 'between 1 and 65535'],
  ['tls,tlsport=0', 'option.malformed', 'between 1 and 65535'],
  ['tls,region=US', 'region.malformed', 'Invalid "region" mount option specified'],
  ['tls,mounttargetip=name', 'option.malformed', 'is not an IPv4 or IPv6 address'],
  ['tls,capath=/x,az=us-east-1a', 'option.unsupported', 'Unsupported mount options detected: "capath", "az"'],
  ['', 'option.unsupported', 'without the "tls" option'],
  ['notls', 'option.unsupported', 'without the "tls" option'],
  ['port=2049', 'option.unsupported', 'without the "tls" option'],
  ['tls=no', 'option.malformed', 'takes no value'],
])('the options "%s" are refused with %s', (options, code, fragment) => {
  const failure = failureOf(() => specOf(options));

  expect(failure.code).toBe(code);
  expect(failure.message).toContain(fragment);
});

test.each(['accesspoint', 'region', 'mounttargetip', 'tlsport', 'cafile', 'awscredsuri', 'awsprofile'])(
  'the option %s without a value is refused by its name',
  (name) => {
    for (const text of [name, `${name}=`, `${name}=""`]) {
      const failure = failureOf(() => specOf(`tls,iam,${text}`));
      expect(failure).toMatchObject({ code: 'option.malformed' });
      expect(failure.message).toContain(`"${name}" option needs a value`);
    }
  },
);

test.each([
  'az',
  'crossaccount',
  'netns',
  'rolearn',
  'jwtpath',
  'verify',
  'ocsp',
  'noocsp',
  'stunnel',
  'capath',
  'fsap',
  'azid',
  'nodirects3read',
  'nos3readcache',
])('the option %s is refused by its name and never ignored', (name) => {
  for (const text of [name, `${name}=1`]) {
    const failure = failureOf(() => specOf(`tls,${text}`));
    expect(failure.code).toBe('option.unsupported');
    expect(failure.message).toContain(`"${name}"`);
  }
});

test('a mount target address may be IPv6, with or without brackets', () => {
  expect(specOf('tls,mounttargetip=[2001:db8::1]').mountTargetIp).toBe('2001:db8::1');
  expect(specOf('tls,mounttargetip=2001:db8::1').mountTargetIp).toBe('2001:db8::1');
});

test('address literals are those the operating system knows', () => {
  const groups = fc
    .array(fc.constantFrom('0', 'ffff', '1', '', 'g', '12345', '1.2.3.4'), { maxLength: 9 })
    .map((g) => g.join(':'));
  const octets = fc
    .array(fc.oneof(fc.nat(300).map(String), fc.constantFrom('', '01', 'x')), { maxLength: 5 })
    .map((o) => o.join('.'));
  fc.assert(
    fc.property(fc.oneof(groups, octets, fc.ipV4(), fc.ipV6(), fc.string()), (text) => {
      fc.pre(!text.includes('%'));
      expect(isAddressLiteral(text)).toBe(isIP(text) !== 0);
    }),
    { numRuns: 1_000 },
  );
});

const specs = optionLists.chain((nfs) =>
  fc
    .record({
      device: fc.constantFrom(fileSystem, 'files.example.org:/a', 'fs-1:/ü "x"'),
      options: fc.subarray([
        ...parseOptions(
          `region=us-east-1,mounttargetip=::1,tlsport=1,cafile=/x,awsprofile=p,accesspoint=${accessPoint}`,
        ),
      ]),
    })
    .map(({ device, options }) => parseMountSpec(device, [...parseOptions('tls,iam'), ...options, ...nfs])),
);

test('a mount spec survives the control socket', () => {
  fc.assert(
    fc.property(specs, (spec) => {
      expect(checkMountSpec(JSON.parse(JSON.stringify(spec)))).toEqual(spec);
      expect(checkMountSpec({ ...spec, newer: 1 })).toEqual(spec);
    }),
  );
});

test('a mount spec with a field missing or of another kind is a protocol error', () => {
  fc.assert(
    fc.property(
      specs,
      fc.nat(11),
      fc.constantFrom<unknown>(
        undefined,
        7.5,
        {},
        [],
        'a\nb',
        [null],
        [{ name: 'a,b', value: null }],
        [{ name: 'a' }],
      ),
      (spec, at, junk) => {
        const field = Object.keys(spec)[at]!;
        fc.pre(!(field === 'nfsOptions' && Array.isArray(junk) && junk.length === 0));

        expect(failureOf(() => checkMountSpec({ ...spec, [field]: junk })).code).toBe('agent.protocol');
      },
    ),
  );
});

test('whatever arrives instead of a mount spec is a protocol error', () => {
  fc.assert(
    fc.property(fc.anything(), (junk) => {
      expect(failureOf(() => checkMountSpec(junk)).code).toBe('agent.protocol');
    }),
  );
});
