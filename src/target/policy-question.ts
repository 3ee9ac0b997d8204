import { isIP } from 'node:net';
import { AgentError } from '../core/errors.ts';
import type { AccessRequest } from './policy.ts';

/** What `efs-agent policy check` was asked, as it was typed. */
export interface PolicyQuestion {
  as: string;
  accesspoint: string | undefined;
  filesystem: string | undefined;
  region: string | undefined;
  account: string | undefined;
  sourceIp: string | undefined;
  /** False for plain NFS. */
  tls: boolean;
}

/**
 * Reads who asks for what.
 *
 * Errors: `option.malformed` for an ARN, id or address that is none; `option.requires` where an id needs a region or
 * account to become an ARN.
 */
export function parsePolicyQuestion(question: PolicyQuestion): AccessRequest {
  const principal = parsePrincipal(question.as);
  if (question.account !== undefined && !/^\d{12}$/.test(question.account))
    throw malformed('--account', question.account, 'Write the twelve digits of the account.');
  if (question.sourceIp !== undefined && isIP(question.sourceIp) === 0)
    throw malformed('--source-ip', question.sourceIp, 'Write an IPv4 or IPv6 address.');
  const account = question.account ?? (principal.kind === 'anonymous' ? undefined : principal.accountId);
  const partition = question.as === 'anonymous' ? 'aws' : question.as.split(':')[1]!;
  const where = { partition, region: question.region, account };
  return {
    principal,
    fileSystemArn: resourceArn('--filesystem', question.filesystem, resources.fileSystem, where),
    accessPointArn: resourceArn('--accesspoint', question.accesspoint, resources.accessPoint, where),
    secureTransport: question.tls,
    accessedViaMountTarget: true,
    sourceIp: question.sourceIp ?? null,
  };
}

interface Resource {
  arn: RegExp;
  id: RegExp;
  kind: string;
  example: string;
}

const arnStart = 'arn:aws[a-z-]*:elasticfilesystem:[a-z0-9-]+:\\d{12}';
const resources = {
  fileSystem: {
    arn: new RegExp(`^${arnStart}:file-system/fs-[0-9a-f]+$`),
    id: /^fs-[0-9a-f]+$/,
    kind: 'file-system',
    example: 'fs-0123456789abcdef0',
  },
  accessPoint: {
    arn: new RegExp(`^${arnStart}:access-point/fsap-[0-9a-f]{17}$`),
    id: /^fsap-[0-9a-f]{17}$/,
    kind: 'access-point',
    example: 'fsap-0123456789abcdef0',
  },
} satisfies Record<string, Resource>;

function resourceArn(
  option: string,
  text: string | undefined,
  { arn, id, kind, example }: Resource,
  {
    partition,
    region,
    account,
  }: { partition: string; region?: string | undefined; account?: string | undefined },
): string | null {
  if (text === undefined) return null;
  if (arn.test(text)) return text;
  if (!id.test(text)) throw malformed(option, text, `Write an id such as ${example}, or its ARN.`);
  const missing = region === undefined ? '--region' : account === undefined ? '--account' : null;
  if (missing !== null) {
    throw new AgentError('option.requires', `${option} ${text} needs ${missing} to become an ARN`, {
      hint: `Give ${missing}, or the whole ARN.`,
    });
  }
  return `arn:${partition}:elasticfilesystem:${region}:${account}:${kind}/${text}`;
}

/** `anonymous`, or the ARN of a role, of a session of one, or of a user. */
function parsePrincipal(text: string): AccessRequest['principal'] {
  if (text === 'anonymous') return { kind: 'anonymous' };
  const match =
    /^arn:(?<partition>aws[a-z-]*):(?:iam::(?<account>\d{12}):(?<type>role|user)\/(?<name>[\w+=,.@/-]+)|sts::(?<owner>\d{12}):assumed-role\/(?<role>[\w+=,.@-]+)\/[\w+=,.@-]+)$/.exec(
      text,
    )?.groups;
  if (match === undefined) {
    throw malformed(
      '--as',
      text,
      'Write anonymous, or the ARN of a role, a session of a role (arn:aws:sts::…:assumed-role/…) or a user.',
    );
  }
  const { partition, account, type, owner, role } = match;
  if (type === 'user') return { kind: 'user', accountId: account!, userArn: text };
  // Of a role alone the session is not known: no statement that names one can mean it.
  return type === 'role'
    ? { kind: 'assumed-role', accountId: account!, roleArn: text, sessionArn: text }
    : {
        kind: 'assumed-role',
        accountId: owner!,
        roleArn: `arn:${partition}:iam::${owner}:role/${role}`,
        sessionArn: text,
      };
}

function malformed(option: string, text: string, hint: string): AgentError {
  return new AgentError('option.malformed', `${option} ${text} is not right`, { hint });
}
