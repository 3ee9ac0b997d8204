import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { build } from 'esbuild';
import { afterAll, beforeAll, expect, test } from 'vitest';

const app = resolve('contrib/cdk');

/** As far as it is used here; the package is not one of this clone's own dependencies. */
interface Template {
  hasResourceProperties(type: string, properties: unknown): void;
  resourceCountIs(type: string, count: number): void;
  findResources(type: string): Record<string, { Properties: Record<string, unknown> }>;
  hasOutput(name: string, properties: unknown): void;
  toJSON(): { Outputs: Record<string, { Value: unknown }> };
}
let template: Template;
let match: Record<'arrayWith' | 'objectLike' | 'anyValue', (pattern?: unknown) => unknown>;
let out: string;

beforeAll(async () => {
  if (!isInstalled())
    execFileSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], {
      cwd: app,
      stdio: 'inherit',
    });
  out = mkdtempSync(join(tmpdir(), 'efs-cdk-'));
  // Inside of the package, where its dependencies are found; the oldest Node we test on does not read TypeScript.
  const program = join(app, 'node_modules/.cache/app.mjs');
  await build({
    entryPoints: [join(app, 'app.ts')],
    outfile: program,
    bundle: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
  });
  execFileSync(process.execPath, [program], { env: { ...process.env, CDK_OUTDIR: out } });
  const assertions = createRequire(join(app, 'package.json'))('aws-cdk-lib/assertions') as {
    Template: { fromJSON(json: unknown): Template };
    Match: typeof match;
  };
  match = assertions.Match;
  template = assertions.Template.fromJSON(
    JSON.parse(readFileSync(join(out, 'EfsAgentSetting.template.json'), 'utf8')),
  );
});
afterAll(() => rmSync(out, { recursive: true, force: true }));

function isInstalled(): boolean {
  const read = (name: string) =>
    (JSON.parse(readFileSync(join(app, name), 'utf8')) as { packages: Record<string, { version: string }> })
      .packages;
  if (!existsSync(join(app, 'node_modules/.package-lock.json'))) return false;
  const installed = read('node_modules/.package-lock.json');
  return Object.entries(read('package-lock.json')).every(
    ([path, { version }]) => path === '' || installed[path]?.version === version,
  );
}

test('the file-system policy lets the role of the instance in, and nobody else', () => {
  const roles = Object.keys(template.findResources('AWS::IAM::Role'));
  expect(roles).toHaveLength(1);

  template.hasResourceProperties('AWS::EFS::FileSystem', {
    Encrypted: true,
    FileSystemPolicy: {
      Version: '2012-10-17',
      Statement: [
        {
          Effect: 'Allow',
          Principal: { AWS: { 'Fn::GetAtt': [roles[0], 'Arn'] } },
          Action: ['ClientMount', 'ClientRootAccess', 'ClientWrite'].map(
            (name) => `elasticfilesystem:${name}`,
          ),
          Resource: '*',
          Condition: { Bool: { 'elasticfilesystem:AccessedViaMountTarget': 'true' } },
        },
      ],
    },
  });
});

test('the role grants no access to the file system by itself', () => {
  const granted = Object.values(template.findResources('AWS::IAM::Policy')).flatMap(
    ({ Properties }) =>
      (Properties['PolicyDocument'] as { Statement: { Action: string | string[] }[] }).Statement,
  );
  const actions = granted.flatMap(({ Action }) => Action);

  expect(actions.toSorted()).toEqual([
    'cloudtrail:LookupEvents',
    'elasticfilesystem:DeleteFileSystemPolicy',
    'elasticfilesystem:DescribeFileSystemPolicy',
    'elasticfilesystem:PutFileSystemPolicy',
  ]);
});

test('port 2049 is open from the instance to the mount target, and no other port to anybody', () => {
  template.resourceCountIs('AWS::EC2::SecurityGroupIngress', 1);
  template.hasResourceProperties('AWS::EC2::SecurityGroupIngress', {
    FromPort: 2049,
    ToPort: 2049,
    IpProtocol: 'tcp',
    SourceSecurityGroupId: match.anyValue(),
  });
  for (const group of Object.values(template.findResources('AWS::EC2::SecurityGroup')))
    expect(group.Properties['SecurityGroupIngress']).toBeUndefined();
});

test('there is one instance that speaks IMDSv2 only, one mount target, two access points with users of their own', () => {
  template.resourceCountIs('AWS::EC2::Instance', 1);
  template.resourceCountIs('AWS::EFS::MountTarget', 1);
  template.resourceCountIs('AWS::EC2::NatGateway', 0);
  template.hasResourceProperties('AWS::EC2::LaunchTemplate', {
    LaunchTemplateData: match.objectLike({ MetadataOptions: match.objectLike({ HttpTokens: 'required' }) }),
  });
  template.resourceCountIs('AWS::EFS::AccessPoint', 2);
  for (const [Path, id] of [
    ['/app', '1000'],
    ['/other', '1001'],
  ])
    template.hasResourceProperties('AWS::EFS::AccessPoint', {
      PosixUser: { Uid: id, Gid: id },
      RootDirectory: { Path, CreationInfo: { OwnerUid: id, OwnerGid: id, Permissions: '0750' } },
    });
  for (const name of ['InstanceId', 'FileSystemId', 'AccessPointId', 'RoleArn', 'TargetAddress'])
    template.hasOutput(name, { Value: match.anyValue() });
});

test('the stack prints the whole command that replays the scenes, with options that the program has', () => {
  const words = JSON.stringify(template.toJSON().Outputs['Replay']!.Value).match(/--[a-z-]+/g)!;
  const { stdout, status } = spawnSync(process.execPath, [join(app, 'replay.mjs'), '--help'], {
    encoding: 'utf8',
  });

  expect(words.toSorted()).toEqual([
    ...['--access-point', '--access-point', '--file-system', '--region', '--role'],
  ]);
  expect(status).toBe(0);
  for (const word of words) expect(stdout).toContain(word);
});

test('the app passes the type checker', () => {
  execFileSync(resolve('node_modules/.bin/tsc'), ['-p', app], { encoding: 'utf8' });
}, 120_000);
