import { afterEach, beforeEach, expect, test } from 'vitest';
import { runCommandLine } from '../../src/cli/command-line.ts';
import { type HelperStage, openHelperStage } from '../helper/stage.ts';

let stage: HelperStage;
beforeEach(() => {
  stage = openHelperStage();
});
afterEach(() => stage.close());

const roleArn = 'arn:aws:iam::111122223333:role/efs-client';
const sessionArn = 'arn:aws:sts::111122223333:assumed-role/efs-client/i-0123456789abcdef0';
const userArn = 'arn:aws:iam::111122223333:user/someone';
const fileSystemArn = 'arn:aws:elasticfilesystem:us-east-1:111122223333:file-system/fs-0123456789abcdef0';
const accessPointId = 'fsap-0123456789abcdef0';

/** As people write it: a role reads and writes through one access point, nobody is root, and plain NFS is denied. */
const policy = `{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Sid": "Clients",
      "Effect": "Allow",
      "Principal": { "AWS": "${roleArn}" },
      "Action": ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"],
      "Resource": "${fileSystemArn}",
      "Condition": {
        "StringEquals": {
          "elasticfilesystem:AccessPointArn": "arn:aws:elasticfilesystem:us-east-1:111122223333:access-point/${accessPointId}"
        }
      }
    },
    {
      "Effect": "Allow", "Principal": { "AWS": "${userArn}" },
      "Action": "elasticfilesystem:Client*", "Resource": "*"
    },
    {
      "Effect": "Deny", "Principal": "*", "Action": "*", "Resource": "*",
      "Condition": { "Bool": { "aws:SecureTransport": "false" } }
    }
  ]
}
`;

async function check(argv: string[], text = policy) {
  stage.write('policy.json', text);
  const caller = stage.caller({ program: 'efs-agent' });
  const status = await runCommandLine(['policy', 'check', 'policy.json', ...argv], caller);
  return { status, out: caller.out, error: caller.error };
}

const denied = (reason: string) => `ClientMount       denied   ${reason}
ClientWrite       denied   ${reason}
ClientRootAccess  denied   ${reason}
`;

test('each permission is answered with the statement that decided and its line', async () => {
  const asked = ['--as', sessionArn, '--accesspoint', accessPointId, '--region', 'us-east-1'];

  expect(await check(asked)).toEqual({
    status: 0,
    error: '',
    out: `ClientMount       allowed  Clients (line 4): Allow
ClientWrite       allowed  Clients (line 4): Allow
ClientRootAccess  denied   no statement allows it
`,
  });
});

test.each([
  ['without the access point', ['--as', roleArn], denied('no statement allows it')],
  ['anonymous clients', ['--as', 'anonymous'], denied('no statement allows it')],
  ['plain NFS', ['--as', userArn, '--tls=false'], denied('statement 3 (line 20): Deny')],
  [
    'another file system',
    ['--as', roleArn, '--accesspoint', accessPointId, '--filesystem', 'fs-99', '--region', 'us-east-1'],
    denied('no statement allows it'),
  ],
])('%s may not mount: the exit status is that of the mount', async (_name, argv, out) => {
  expect(await check(argv)).toEqual({ status: 32, error: '', out });
});

test('a user has what is granted to the user, for programs too', async () => {
  const { status, out } = await check(['--as', userArn, '--json']);

  expect(status).toBe(0);
  expect(JSON.parse(out)).toMatchObject({
    request: { principal: { kind: 'user', userArn }, accessPointArn: null, secureTransport: true },
    permissions: { ClientMount: true, ClientWrite: true, ClientRootAccess: true },
    decidedBy: { ClientMount: { kind: 'statement', effect: 'Allow', name: 'statement 2', line: 16 } },
  });
});

test('writing without mounting is worth nothing, and it is said', async () => {
  const text = policy.replace('"elasticfilesystem:ClientMount", ', '');

  const { status, out } = await check(
    ['--as', roleArn, '--accesspoint', accessPointId, '--region', 'us-east-1'],
    text,
  );

  expect(status).toBe(32);
  expect(out).toContain(
    'ClientWrite       denied   a statement allows it, but it means nothing without ClientMount\n',
  );
});

test.each([
  [
    'a comma too many',
    policy.replace('] ', '], ').replace('"Resource": "*"\n', '"Resource": "*",\n'),
    2,
    /line 19, column 5/,
  ],
  ['a text that ends too early', policy.slice(0, 200), 2, /line \d+, column \d+/],
  ['nothing at all', '', 2, /line 1, column 1/],
  [
    'a name that stands twice',
    policy.replace('"Sid": "Clients",', '"Sid": "Clients", "Effect": "Deny",'),
    2,
    /line 6, column 7: "Effect" stands twice in one object \[config\.malformed\]/,
  ],
  [
    'a condition key of another service',
    policy.replace('aws:SecureTransport', 's3:prefix'),
    2,
    /statement 3 \(line 20\): Bool "s3:prefix": this key does not hold for NFS clients/,
  ],
  ['a list in the place of an object', '[]', 2, /the policy is not a JSON object/],
])('%s is an error that names the place', async (_name, text, status, message) => {
  const ended = await check(['--as', 'anonymous'], text);

  expect(ended).toMatchObject({ status, out: '' });
  expect(ended.error).toMatch(message);
  expect(ended.error).toMatch(/^efs-agent: [^\n]+\n {2}[^\n]+\n$/);
});

test.each([
  [['--as', 'role/efs-client'], /--as role\/efs-client is not right \[option\.malformed\]/],
  [['--as', roleArn, '--accesspoint', 'fsap-1'], /--accesspoint fsap-1 is not right \[option\.malformed\]/],
  [
    ['--as', roleArn, '--filesystem', 'fs-1'],
    /--filesystem fs-1 needs --region to become an ARN \[option\.requires\]/,
  ],
  [
    ['--as', 'anonymous', '--filesystem', 'fs-1', '--region', 'us-east-1'],
    /--filesystem fs-1 needs --account to become an ARN \[option\.requires\]/,
  ],
  [['--as', roleArn, '--source-ip', '10.1'], /--source-ip 10\.1 is not right/],
  [[], /Missing required argument: as \[usage\]/],
])('%j is refused with one line', async (argv, message) => {
  const ended = await check(argv);

  expect(ended).toMatchObject({ status: 1, out: '' });
  expect(ended.error).toMatch(message);
});

test('a policy that is not there is no defect', async () => {
  const caller = stage.caller({ program: 'efs-agent' });

  expect(await runCommandLine(['policy', 'check', '/nowhere', '--as', 'anonymous'], caller)).toBe(2);
  expect(caller.error).toContain('cannot read the policy /nowhere: ENOENT [config.unreadable]');
});
