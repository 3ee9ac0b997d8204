import { randomUUID } from 'node:crypto';
import type { RefusalReason } from './client-certificate.ts';
import type { Decision, Principal } from './policy.ts';

/** Why a connection got no access, beyond what the policy says. */
export type DenialReason =
  | RefusalReason
  | 'policy'
  | 'file-system-unknown'
  | 'file-system-mismatch'
  | 'access-point-unknown'
  | 'access-point-root-missing';

/** What is known of a connection when access is decided. */
export interface ConnectionFacts {
  connectionId: string;
  region: string;
  partition: string;
  accountId: string;
  sourceIp: string;
  sourcePort: number;
  transport: 'tls' | 'tcp';
  principal: Principal;
  accessKeyId: string | null;
  fileSystemId: string | null;
  accessPointId: string | null;
  clientInfo: readonly string[];
}

/** One JSON object of the event stream. */
export type TargetEvent = Record<string, unknown> & { eventName: string };

/**
 * The event of one connection whose access was decided, shaped like CloudTrail's NewClientConnection.
 *
 * `efsAgentDetails` is ours: what the service does not say and a user of the local target wants to know.
 * Source: Amazon EFS user guide, "Logging Amazon EFS API calls with AWS CloudTrail".
 */
export function newClientConnectionEvent(
  facts: ConnectionFacts,
  decision: Decision,
  denial: { reason: DenialReason; detail: string } | null,
  nowMs: number,
): TargetEvent {
  const arnOf = (rest: string) => `arn:${facts.partition}:elasticfilesystem:${facts.region}:${facts.accountId}:${rest}`;
  const resource = (type: string, rest: string) => ({ accountId: facts.accountId, type, ARN: arnOf(rest) });
  return {
    eventVersion: '1.08',
    userIdentity: userIdentity(facts),
    eventTime: new Date(nowMs).toISOString().replace(/\.\d+Z$/, 'Z'),
    eventSource: 'elasticfilesystem.amazonaws.com',
    eventName: 'NewClientConnection',
    awsRegion: facts.region,
    sourceIPAddress: 'AWS Internal',
    userAgent: 'elasticfilesystem',
    ...(denial === null ? {} : { errorCode: 'AccessDenied' }),
    requestParameters: null,
    responseElements: null,
    eventID: randomUUID(),
    readOnly: true,
    resources: [
      ...(facts.fileSystemId === null ? [] : [resource('AWS::EFS::FileSystem', `file-system/${facts.fileSystemId}`)]),
      ...(facts.accessPointId === null ? [] : [resource('AWS::EFS::AccessPoint', `access-point/${facts.accessPointId}`)]),
    ],
    eventType: 'AwsServiceEvent',
    managementEvent: true,
    eventCategory: 'Management',
    recipientAccountId: facts.accountId,
    serviceEventDetails: { permissions: decision.permissions, sourceIpAddress: facts.sourceIp },
    efsAgentDetails: {
      connectionId: facts.connectionId,
      sourcePort: facts.sourcePort,
      transport: facts.transport,
      clientInfo: facts.clientInfo,
      ...(denial === null ? {} : { reason: denial.reason, detail: denial.detail }),
      decidedBy: decision.decidedBy,
    },
  };
}

/**
 * The event of a connection that has ended, also of one that ended before access was decided.
 *
 * Units: bytes of NFS as the client sent and received them, inside TLS.
 */
export function connectionClosedEvent(
  closed: { connectionId: string; sourceIp: string; sourcePort: number; bytesReceived: number; bytesSent: number; failure: string | null },
  nowMs: number,
): TargetEvent {
  const { failure, ...facts } = closed;
  return {
    eventName: 'ConnectionClosed',
    eventTime: new Date(nowMs).toISOString(),
    ...facts,
    ...(failure === null ? {} : { failure }),
  };
}

function userIdentity({ principal, accessKeyId }: ConnectionFacts) {
  if (principal.kind === 'anonymous') {
    return { type: 'AWSAccount', principalId: '', accountId: 'ANONYMOUS_PRINCIPAL' };
  }
  const roleName = principal.roleArn.slice(principal.roleArn.lastIndexOf('/') + 1);
  const sessionName = principal.sessionArn.slice(principal.sessionArn.lastIndexOf('/') + 1);
  const principalId = principalIdOf(principal.roleArn);
  return {
    type: 'AssumedRole',
    principalId: `${principalId}:${sessionName}`,
    arn: principal.sessionArn,
    accountId: principal.accountId,
    accessKeyId,
    sessionContext: {
      sessionIssuer: { type: 'Role', principalId, arn: principal.roleArn, accountId: principal.accountId, userName: roleName },
    },
  };
}

/** A made-up unique id of a role, the same for the same role. */
export function principalIdOf(roleArn: string): string {
  return `AROA${Buffer.from(roleArn).toString('hex').toUpperCase().slice(-17)}`;
}
