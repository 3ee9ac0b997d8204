import fc from 'fast-check';
import { expect, test } from 'vitest';
import { AgentError } from '../../src/core/errors.ts';
import { parseTargetArguments, type TargetArguments } from '../../src/target/options.ts';

const typed: TargetArguments = {
  region: 'us-east-1',
  dnsSuffix: 'amazonaws.com',
  account: '111122223333',
  role: 'efs-client',
  instanceId: 'i-0123456789abcdef0',
  fileSystem: ['fs-01'],
  accessPoint: [],
  policy: undefined,
  listen: ['127.0.0.1'],
  metadata: '127.0.0.1:1338',
  metadataV1: false,
  stateDir: undefined,
  credentialsLifetime: 60,
  maxConnections: 5,
  scaleUpBytesPerSecond: 314_572_800,
  limitBytesPerSecond: undefined,
};

test('a file system, an access point and addresses are read as written', () => {
  const options = parseTargetArguments({
    ...typed,
    fileSystem: ['fs-01=/srv/one', 'fs-02'],
    accessPoint: ['fsap-0123456789abcdef0=fs-01:/app:1000:1001:0750', 'fsap-0123456789abcdef1=fs-02:/'],
    listen: ['127.0.0.2=fs-02', '[::1]:20490'],
  });

  expect(options).toMatchObject({
    fileSystems: [
      { id: 'fs-01', directory: '/srv/one' },
      { id: 'fs-02', directory: null },
    ],
    accessPoints: [
      {
        id: 'fsap-0123456789abcdef0',
        fileSystemId: 'fs-01',
        path: '/app',
        user: { uid: 1000, gid: 1001 },
        createMode: 0o750,
      },
      { id: 'fsap-0123456789abcdef1', fileSystemId: 'fs-02', path: '/', user: null, createMode: null },
    ],
    listen: [
      { address: '127.0.0.2', port: 2049, fileSystemId: 'fs-02' },
      { address: '::1', port: 20490, fileSystemId: null },
    ],
    metadata: { address: '127.0.0.1', port: 1338, tokenOptional: false },
  });
});

const rejected: [title: string, changes: Partial<TargetArguments>, code: string][] = [
  ['no file system', { fileSystem: [] }, 'usage'],
  ['a file system twice', { fileSystem: ['fs-01', 'fs-01=/x'] }, 'option.conflict'],
  ['a path with a quote', { fileSystem: ['fs-01=/a"b'] }, 'option.malformed'],
  [
    'an access point of a file system that is not there',
    { accessPoint: ['fsap-0123456789abcdef0=fs-02:/'] },
    'option.malformed',
  ],
  [
    'an access point path that climbs',
    { accessPoint: ['fsap-0123456789abcdef0=fs-01:/a/../..'] },
    'option.malformed',
  ],
  [
    'a mode without a user',
    { accessPoint: ['fsap-0123456789abcdef0=fs-01:/a::0750'] },
    'access-point.malformed',
  ],
  ['a host name to listen on', { listen: ['localhost:2049'] }, 'option.malformed'],
  ['a port that is none', { listen: ['127.0.0.1:70000'] }, 'option.malformed'],
  ['metadata without a port', { metadata: '127.0.0.1' }, 'option.malformed'],
  ['a region that is none', { region: 'us_east' }, 'region.malformed'],
  ['an account that is none', { account: '12' }, 'option.malformed'],
  ['no connection at all', { maxConnections: 0 }, 'option.malformed'],
  ['a negative threshold', { scaleUpBytesPerSecond: -1 }, 'option.malformed'],
  ['a limit of nothing', { limitBytesPerSecond: 0 }, 'option.malformed'],
  ['a lifetime that is none', { credentialsLifetime: Number.NaN }, 'option.malformed'],
];

test.each(rejected)('%s is one clear error', (_title, changes, code) => {
  expect(() => parseTargetArguments({ ...typed, ...changes })).toThrow(expect.objectContaining({ code }));
});

test('whatever is typed gives options or an AgentError', () => {
  const text = fc.oneof(
    fc.string(),
    fc.stringMatching(/^fs(ap)?-[0-9a-f]{1,17}[=:/.0-9a-z]*$/),
    fc.stringMatching(/^[[\]0-9.:=fs-]*$/),
  );
  const list = fc.array(text, { maxLength: 3 });
  fc.assert(
    fc.property(
      fc.record({ fileSystem: list, accessPoint: list, listen: list, metadata: text, region: text }),
      (changes) => {
        try {
          parseTargetArguments({ ...typed, ...changes });
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(AgentError);
        }
      },
    ),
  );
});
