import { isIP } from 'node:net';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { AgentError } from '../../src/core/errors.ts';
import {
  checkMountSpec,
  describeDifferences,
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
    zone: null,
    crossAccount: false,
    mountTargetIp: null,
    networkNamespace: null,
    tlsPort: null,
    caFile: null,
    noOcsp: false,
    awsCredsUri: null,
    awsProfile: null,
    roleArn: null,
    jwtPath: null,
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
  [
    'tls,capath=/x,azid=use1-az1',
    'option.unsupported',
    'Unsupported mount options detected: "capath", "azid"',
  ],
  ['tls,ocsp,noocsp', 'option.conflict', 'options are mutually exclusive'],
  ['tls,iam,awscredsuri=/x,rolearn=r', 'option.conflict', 'options are mutually exclusive'],
  ['tls,iam,awsprofile=p,rolearn=r', 'option.conflict', 'options are mutually exclusive'],
  ['tls,crossaccount,mounttargetip=10.0.0.1', 'option.conflict', 'are incompatible'],
  ['tlsport=20100', 'option.requires', 'The "tls" option is required when mounting with "tlsport"'],
  ['cafile=/x', 'option.requires', 'The "tls" option is required when mounting with "cafile"'],
  ['verify=2', 'option.requires', 'The "tls" option is required when mounting with "verify"'],
  ['tls,rolearn=arn:aws:iam::111122223333:role/r,jwtpath=/t', 'option.requires', 'with "rolearn"'],
  ['tls,jwtpath=/t', 'option.requires', 'with "jwtpath"'],
  ['tls,iam,jwtpath=/t', 'option.requires', 'The "rolearn" option is required when mounting with "jwtpath"'],
  [
    'tls,iam,rolearn=arn:aws:iam::111122223333:role/r',
    'option.requires',
    'The "jwtpath" option is required when mounting with "rolearn"',
  ],
  ['tls,iam,rolearn=efs-client,jwtpath=/t', 'option.malformed', 'rolearn efs-client is malformed'],
  ['tls,az=us-east-1a.x', 'option.malformed', 'az us-east-1a.x is malformed'],
  ['tls,netns=blue', 'option.malformed', 'netns blue is malformed'],
  ['tls,verify=x', 'option.malformed', 'verify option x is not an integer'],
  ['tls,verify=0', 'option.unsupported', 'verify=0 would accept any server'],
  ['tls,verify=3', 'option.unsupported', 'verify=3 is not supported'],
  ['tls,stunnel=5', 'option.malformed', 'takes no value'],
  ['tls=no', 'option.malformed', 'takes no value'],
])('the options "%s" are refused with %s', (options, code, fragment) => {
  const failure = failureOf(() => specOf(options));

  expect(failure.code).toBe(code);
  expect(failure.message).toContain(fragment);
});

test.each([
  ['tls=no', 'Write tls alone, or leave it out'],
  ['tls,accesspoint', 'Write accesspoint=<value>'],
  ['tls,verify=x', 'Write verify=<number>'],
  ['tls,tlsport=70000', 'Leave tlsport out'],
  ['tls,mounttargetip=name', 'mounttargetip=10.0.1.23'],
])('what to do about the options "%s" stands in the hint', (options, hint) => {
  expect(failureOf(() => specOf(options)).details['hint']).toContain(hint);
});

test.each(['10.0.1.23', '10.0.1.23:/app', '[fd00::6]:/', '[fd00::6]'])(
  'the address %s in the place of the file system is refused, with the option that takes it',
  (device) => {
    const failure = failureOf(() => parseMountSpec(device, parseOptions('tls')));

    expect(failure).toMatchObject({ code: 'spec.malformed' });
    expect(failure.details['hint']).toContain('mounttargetip=<address>');
  },
);

test.each([
  ...['accesspoint', 'region', 'az', 'mounttargetip', 'netns', 'tlsport', 'verify', 'cafile', 'awscredsuri'],
  ...['awsprofile', 'rolearn', 'jwtpath'],
])('the option %s without a value is refused by its name', (name) => {
  for (const text of [name, `${name}=`, `${name}=""`]) {
    const failure = failureOf(() => specOf(`tls,iam,${text}`));
    expect(failure).toMatchObject({ code: 'option.malformed' });
    expect(failure.message).toContain(`"${name}" option needs a value`);
  }
});

test.each(['ocsp', 'capath', 'fsap', 'azid'])(
  'the option %s is refused by its name, with what to do',
  (name) => {
    for (const options of [name, `${name}=1`, `tls,${name}=1`]) {
      const failure = failureOf(() => specOf(options));

      expect(failure.code).toBe('option.unsupported');
      expect(failure.message).toBe(`Unsupported mount options detected: "${name}"`);
      expect(failure.details['hint']).toMatch(/\.$/);
    }
  },
);

/** Specification 1.5, row by row: what an option means in the mount that is asked for. */
test.each<[string, Partial<ReturnType<typeof specOf>>]>([
  ['', { tls: false, iam: false, nfsOptions: [] }],
  ['tls', { tls: true, iam: false }],
  ['notls', { tls: false }],
  ['tls,iam', { iam: true }],
  [`tls,accesspoint=${accessPoint}`, { accessPoint }],
  ['tls,iam,awsprofile=my profile', { awsProfile: 'my profile' }],
  ['tls,iam,awscredsuri=/v2/x', { awsCredsUri: '/v2/x' }],
  [
    'tls,iam,rolearn=arn:aws-cn:iam::111122223333:role/a/b,jwtpath=/var/run/token',
    { roleArn: 'arn:aws-cn:iam::111122223333:role/a/b', jwtPath: '/var/run/token' },
  ],
  ['region=eu-west-1', { region: 'eu-west-1' }],
  ['az=us-east-1a', { zone: 'us-east-1a' }],
  ['crossaccount', { crossAccount: true }],
  ['crossaccount,az=us-east-1a', { crossAccount: true, zone: 'us-east-1a' }],
  ['mounttargetip=10.0.0.1', { mountTargetIp: '10.0.0.1' }],
  ['mounttargetip=fd00::7', { mountTargetIp: 'fd00::7' }],
  ['netns=/proc/7/ns/net', { networkNamespace: '/proc/7/ns/net' }],
  ['tls,tlsport=20100', { tlsPort: 20_100 }],
  ['port=2050', { tls: false, nfsOptions: [{ name: 'port', value: '2050' }] }],
  ['tls,verify=2', { tls: true, nfsOptions: [] }],
  ['tls,verify=1', { tls: true, nfsOptions: [] }],
  ['tls,noocsp', { noOcsp: true, nfsOptions: [] }],
  ['tls,cafile=/etc/ca.pem', { caFile: '/etc/ca.pem' }],
  ['tls,stunnel', { tls: true, nfsOptions: [] }],
  ['stunnel', { tls: false, nfsOptions: [] }],
  ['tls,nodirects3read,nos3readcache', { nfsOptions: [] }],
  ['tls,remount,ro', { nfsOptions: parseOptions('remount,ro') }],
  ['tls,mountport=2049,nconnect=4', { nfsOptions: parseOptions('mountport=2049,nconnect=4') }],
  [
    'tls,_netdev,nofail,actimeo=3,sec=sys,lookupcache=none,bind,context="a:b,c"',
    { nfsOptions: parseOptions('_netdev,nofail,actimeo=3,sec=sys,lookupcache=none,bind,context="a:b,c"') },
  ],
])('the options "%s" ask for what the table says', (options, expected) => {
  expect(specOf(options)).toMatchObject(expected);
});

const anyOption = fc.oneof(
  fc.constantFrom(
    ...[
      'tls',
      'notls',
      'iam',
      'stunnel',
      'ocsp',
      'noocsp',
      'crossaccount',
      'nodirects3read',
      'verify=2',
      'port=1',
    ],
    ...[
      'region=us-east-1',
      'az=us-east-1a',
      `accesspoint=${accessPoint}`,
      'mounttargetip=::1',
      'netns=/x',
      'ro',
    ],
    ...[
      'tlsport=1',
      'cafile=/x',
      'awsprofile=p',
      'awscredsuri=/x',
      'jwtpath=/t',
      'fsap',
      'capath',
      'remount',
      'a=b=c',
    ],
    ...[
      'rolearn=arn:aws:iam::111122223333:role/r',
      'region',
      'tlsport=x',
      'rsize=x',
      'context="a,b"',
      '=',
      '"',
    ],
  ),
  fc.string({ maxLength: 8 }),
);

test('any list of options is a mount or one error of the table, and no option of ours reaches mount.nfs4', () => {
  fc.assert(
    fc.property(fc.array(anyOption, { maxLength: 8 }), (options) => {
      try {
        const spec = specOf(options.join(','));
        expect(spec.iam || spec.accessPoint !== null ? spec.tls : true).toBe(true);
        for (const { name } of spec.nfsOptions)
          expect(name).not.toMatch(
            /^(no)?tls$|^iam$|^accesspoint$|^(no)?ocsp$|^stunnel$|^verify$|^netns$|^fsap$/,
          );
      } catch (error) {
        expect(error).toBeInstanceOf(AgentError);
        expect((error as AgentError).code).toMatch(/^(option|region|access-point|spec)\./);
      }
    }),
    { numRuns: 2_000 },
  );
});

test('two mounts differ in what they show, or only in the way to it', () => {
  const there = specOf('tls,iam,tlsport=20100');

  expect(describeDifferences(there, there)).toEqual({ data: [], way: [] });
  expect(describeDifferences(there, specOf('tls,iam'))).toEqual({
    data: [],
    way: ['tlsport is 20100 there and not given here'],
  });
  expect(
    describeDifferences(there, specOf(`tls,tlsport=20100,accesspoint=${accessPoint}`, `${fileSystem}:/a`)),
  ).toEqual({
    data: [
      'the directory is / there and /a here',
      'iam is given there and not given here',
      `accesspoint is not given there and ${accessPoint} here`,
    ],
    way: [],
  });
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
      fc.nat(17),
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
