import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { AgentError } from '../../src/core/errors.ts';
import {
  type AccessRequest,
  clientActions,
  decidePermissions,
  parsePolicy,
} from '../../src/target/policy.ts';

const account = '111122223333';
const roleArn = `arn:aws:iam::${account}:role/efs-client`;
const sessionArn = `arn:aws:sts::${account}:assumed-role/efs-client/i-0123456789abcdef0`;
const fileSystemArn = `arn:aws:elasticfilesystem:us-east-1:${account}:file-system/fs-0123456789abcdef0`;
const accessPointArn = `arn:aws:elasticfilesystem:us-east-1:${account}:access-point/fsap-0123456789abcdef0`;

const anonymous: AccessRequest = {
  principal: { kind: 'anonymous' },
  fileSystemArn,
  accessPointArn: null,
  secureTransport: true,
  accessedViaMountTarget: true,
  sourceIp: '10.1.1.10',
};
const role: AccessRequest = {
  ...anonymous,
  principal: { kind: 'assumed-role', accountId: account, sessionArn, roleArn },
};

const allActions = clientActions.map((action) => `elasticfilesystem:${action}`);
const allow = { Effect: 'Allow', Principal: '*', Action: allActions, Resource: '*' };

function decide(statements: unknown, request: AccessRequest) {
  return decidePermissions(
    parsePolicy(JSON.stringify({ Version: '2012-10-17', Statement: statements })),
    request,
  );
}

/** The permissions as letters: m, w, r. */
function granted(statements: unknown, request: AccessRequest): string {
  const { ClientMount, ClientWrite, ClientRootAccess } = decide(statements, request).permissions;
  return `${ClientMount ? 'm' : ''}${ClientWrite ? 'w' : ''}${ClientRootAccess ? 'r' : ''}`;
}

const when = (Condition: unknown, changes: object = {}) => ({ ...allow, Condition, ...changes });

describe('who may do what', () => {
  test('without a policy everyone may do everything', () => {
    expect(decidePermissions(null, anonymous).permissions).toEqual({
      ClientMount: true,
      ClientWrite: true,
      ClientRootAccess: true,
    });
  });

  test('the policy of the walk-through lets the role in and an anonymous client not', () => {
    const policy = when(
      { Bool: { 'elasticfilesystem:AccessedViaMountTarget': 'true' } },
      { Principal: { AWS: roleArn } },
    );

    expect(granted(policy, role)).toBe('mwr');
    expect(granted(policy, anonymous)).toBe('');
  });

  const table: [title: string, statements: unknown, request: AccessRequest, permissions: string][] = [
    ['no statement grants nothing', [], role, ''],
    [
      'ClientWrite and ClientRootAccess without ClientMount do not mount',
      { ...allow, Action: allActions.slice(1) },
      role,
      '',
    ],
    ['ClientMount alone is read-only without root', { ...allow, Action: allActions[0] }, role, 'm'],
    [
      'actions compare without regard to case',
      { ...allow, Action: 'ElasticFileSystem:clientmount' },
      role,
      'm',
    ],
    ['elasticfilesystem:* grants everything', { ...allow, Action: 'elasticfilesystem:*' }, role, 'mwr'],
    [
      'elasticfilesystem:Client* grants everything',
      { ...allow, Action: ['elasticfilesystem:Client*'] },
      role,
      'mwr',
    ],
    ['actions of other services grant nothing', { ...allow, Action: 's3:*' }, role, ''],
    [
      'NotAction grants all but what it names',
      { Effect: 'Allow', Principal: '*', NotAction: allActions[2], Resource: '*' },
      role,
      'mw',
    ],
    ['the principal {"AWS": "*"} is everyone', { ...allow, Principal: { AWS: '*' } }, anonymous, 'mwr'],
    ['the ARN of the session names it', { ...allow, Principal: { AWS: [sessionArn] } }, role, 'mwr'],
    ['the ARN of another session does not', { ...allow, Principal: { AWS: `${sessionArn}1` } }, role, ''],
    ['the ARN of another role does not', { ...allow, Principal: { AWS: `${roleArn}-2` } }, role, ''],
    ['the account id names its principals', { ...allow, Principal: { AWS: account } }, role, 'mwr'],
    [
      'the root ARN names the principals of the account',
      { ...allow, Principal: { AWS: `arn:aws:iam::${account}:root` } },
      role,
      'mwr',
    ],
    ['an account does not name anonymous clients', { ...allow, Principal: { AWS: account } }, anonymous, ''],
    [
      'a service is never an NFS client',
      { ...allow, Principal: { Service: 'backup.amazonaws.com' } },
      role,
      '',
    ],
    ['the resource may be left out', { ...allow, Resource: undefined }, role, 'mwr'],
    ['the ARN of the file system is the resource', { ...allow, Resource: [fileSystemArn] }, role, 'mwr'],
    [
      'a resource with wildcards',
      { ...allow, Resource: 'arn:aws:elasticfilesystem:*:*:file-system/fs-0123*' },
      role,
      'mwr',
    ],
    ['another file system is another resource', { ...allow, Resource: `${fileSystemArn}1` }, role, ''],
    [
      'a deny of writing leaves reading',
      [allow, { ...allow, Effect: 'Deny', Action: allActions[1] }],
      role,
      'mr',
    ],
    [
      'a deny of plain NFS spares TLS',
      [allow, when({ Bool: { 'aws:SecureTransport': false } }, { Effect: 'Deny' })],
      anonymous,
      'mwr',
    ],
    [
      'a deny of plain NFS meets plain NFS',
      [allow, when({ Bool: { 'aws:SecureTransport': 'false' } }, { Effect: 'Deny' })],
      { ...anonymous, secureTransport: false },
      '',
    ],
    [
      'condition keys compare without regard to case',
      when({ Bool: { 'AWS:securetransport': 'TRUE' } }),
      role,
      'mwr',
    ],
    [
      'an access point condition lets that access point in',
      when({ StringEquals: { 'elasticfilesystem:AccessPointArn': accessPointArn } }),
      { ...role, accessPointArn },
      'mwr',
    ],
    [
      'and nobody without an access point',
      when({ StringEquals: { 'elasticfilesystem:AccessPointArn': accessPointArn } }),
      role,
      '',
    ],
    [
      'and no other access point',
      when({ ArnEquals: { 'elasticfilesystem:AccessPointArn': accessPointArn } }),
      { ...role, accessPointArn: `${accessPointArn}1` },
      '',
    ],
    [
      'ArnLike knows wildcards in each part',
      when({ ArnLike: { 'aws:PrincipalArn': 'arn:aws:iam::*:role/efs-*' } }),
      role,
      'mwr',
    ],
    [
      'a star in an ARN does not reach over its colons',
      when({ ArnLike: { 'aws:PrincipalArn': 'arn:aws:iam:*/efs-client:a:b' } }),
      role,
      '',
    ],
    [
      'StringLike knows ? and *',
      when({ StringLike: { 'aws:PrincipalArn': '*role/efs-clie??' } }),
      role,
      'mwr',
    ],
    ['StringEquals knows neither', when({ StringEquals: { 'aws:PrincipalArn': '*' } }), role, ''],
    [
      'StringNotEquals holds for a missing key, as in IAM',
      when({ StringNotEquals: { 'aws:PrincipalArn': roleArn } }),
      anonymous,
      'mwr',
    ],
    [
      'StringNotEquals excludes what it names',
      when({ StringNotEquals: { 'aws:PrincipalArn': [roleArn, 'x'] } }),
      role,
      '',
    ],
    [
      'IfExists holds for a missing key',
      when({ StringEqualsIfExists: { 'aws:PrincipalArn': 'x' } }),
      anonymous,
      'mwr',
    ],
    [
      'IpAddress knows networks',
      when({ IpAddress: { 'aws:SourceIp': ['192.0.2.0/24', '10.1.0.0/16'] } }),
      role,
      'mwr',
    ],
    ['IpAddress keeps strangers out', when({ IpAddress: { 'aws:SourceIp': '10.2.0.0/16' } }), role, ''],
    [
      'all conditions must hold',
      when({ Bool: { 'aws:SecureTransport': 'true' }, IpAddress: { 'aws:SourceIp': '10.2.0.1' } }),
      role,
      '',
    ],
  ];

  test.each(table)('%s', (_title, statements, request, permissions) => {
    expect(granted(statements, request)).toBe(permissions);
  });

  test('the answer names the statement that decided', () => {
    const deny = { ...allow, Sid: 'NoWriting', Effect: 'Deny', Action: allActions[1] };

    expect(decide([{ ...allow, Action: allActions.slice(0, 2) }, deny], role).decidedBy).toEqual({
      ClientMount: { kind: 'statement', effect: 'Allow', name: 'statement 1', line: 1 },
      ClientWrite: { kind: 'statement', effect: 'Deny', name: 'NoWriting', line: 1 },
      ClientRootAccess: { kind: 'no-statement' },
    });
  });
});

describe('a policy is rejected with one clear error', () => {
  const table: [title: string, statement: object, fragment: string][] = [
    ['for NotPrincipal', { ...allow, NotPrincipal: '*' }, 'NotPrincipal'],
    ['for NotResource', { ...allow, NotResource: '*' }, 'NotResource'],
    ['without a principal', { ...allow, Principal: undefined }, 'Principal is missing'],
    [
      'for a wildcard inside a principal',
      { ...allow, Principal: { AWS: 'arn:aws:iam::111122223333:role/*' } },
      'wildcard',
    ],
    ['for an effect that is none', { ...allow, Effect: 'allow' }, '"Allow" or "Deny"'],
    ['without an action', { ...allow, Action: undefined }, 'Action'],
    ['for an unknown operator', when({ NumericEquals: { 'aws:SourceIp': '1' } }), 'NumericEquals'],
    ['for an unknown key', when({ StringEquals: { 'aws:PrincipalOrgID': 'o-1' } }), 'aws:PrincipalOrgID'],
    [
      'for a policy variable',
      when({ StringEquals: { 'aws:PrincipalArn': '$'.concat('{aws:username}') } }),
      'variables',
    ],
    [
      'for a Bool that is no boolean',
      when({ Bool: { 'aws:SecureTransport': 'yes' } }),
      'neither true nor false',
    ],
    ['for an address that is none', when({ IpAddress: { 'aws:SourceIp': '10.0.0.0/33' } }), 'address'],
    ['for a name of an object method', when({ constructor: { 'aws:SourceIp': '1' } }), 'constructor'],
    ['for an unknown element', { ...allow, Actions: [] }, 'Actions'],
  ];

  test.each(table)('%s', (_title, statement, fragment) => {
    expect(() => parsePolicy(JSON.stringify({ Statement: [statement] }))).toThrow(
      expect.objectContaining({
        name: 'AgentError',
        code: 'config.invalid',
        message: expect.stringContaining(fragment),
      }),
    );
  });

  test('for text that is not JSON', () => {
    expect(() => parsePolicy('{"Statement": [')).toThrow(
      expect.objectContaining({ code: 'config.malformed' }),
    );
  });
});

describe('for every policy', () => {
  const principals = fc.constantFrom(
    '*',
    { AWS: '*' },
    { AWS: roleArn },
    { AWS: [account, sessionArn] },
    { Service: 'x' },
  );
  const conditions = fc.constantFrom(
    {},
    { Bool: { 'aws:SecureTransport': 'true' } },
    { StringNotEquals: { 'elasticfilesystem:AccessPointArn': accessPointArn } },
    { ArnLikeIfExists: { 'aws:PrincipalArn': 'arn:aws:iam::*:role/*' } },
  );
  const statement = (effect: fc.Arbitrary<string>) =>
    fc.record({
      Effect: effect,
      Principal: principals,
      Action: fc.oneof(
        fc.subarray(allActions, { minLength: 1 }),
        fc.constantFrom('*', 'elasticfilesystem:*'),
      ),
      Resource: fc.constantFrom('*', fileSystemArn, `${fileSystemArn}1`),
      Condition: conditions,
    });
  const statements = fc.array(statement(fc.constantFrom('Allow', 'Deny')), { maxLength: 5 });
  const request = fc.record({
    principal: fc.constantFrom(anonymous.principal, role.principal),
    fileSystemArn: fc.constant(fileSystemArn),
    accessPointArn: fc.constantFrom(null, accessPointArn),
    secureTransport: fc.boolean(),
    accessedViaMountTarget: fc.constant(true),
    sourceIp: fc.ipV4(),
  });

  test('a deny that applies wins, wherever it stands', () => {
    fc.assert(
      fc.property(
        statements,
        request,
        fc.constantFrom(...clientActions),
        fc.nat(),
        (list, asked, action, place) => {
          const deny = {
            Effect: 'Deny',
            Principal: '*',
            Action: `elasticfilesystem:${action}`,
            Resource: '*',
          };
          const at = place % (list.length + 1);

          expect(decide([...list.slice(0, at), deny, ...list.slice(at)], asked).permissions[action]).toBe(
            false,
          );
        },
      ),
    );
  });

  test('an Allow that is added never removes a permission', () => {
    fc.assert(
      fc.property(statements, statement(fc.constant('Allow')), request, (list, more, asked) => {
        const before = decide(list, asked).permissions;
        const after = decide([...list, more], asked).permissions;

        for (const action of clientActions) expect(after[action] || !before[action]).toBe(true);
      }),
    );
  });

  test('the order of the statements does not matter', () => {
    fc.assert(
      fc.property(statements, request, (list, asked) => {
        expect(decide(list.toReversed(), asked).permissions).toEqual(decide(list, asked).permissions);
      }),
    );
  });

  test('reading it gives a policy or an AgentError, whatever it holds', () => {
    const anyPolicy = fc.oneof(
      fc.string(),
      fc.json(),
      fc.jsonValue().map((Statement) => JSON.stringify({ Statement })),
    );
    fc.assert(
      fc.property(anyPolicy, (text) => {
        try {
          decidePermissions(parsePolicy(text), role);
        } catch (thrown) {
          expect(thrown).toBeInstanceOf(AgentError);
        }
      }),
    );
  });

  test('a long row of stars takes no time', () => {
    const pattern = `${'*a'.repeat(200)}*b`;

    expect(granted(when({ StringLike: { 'aws:PrincipalArn': pattern } }), role)).toBe('');
  });
});
