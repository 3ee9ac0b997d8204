import { randomUUID } from 'node:crypto';
import { type AccessOutcome, type AccountFacts, arnsOf, type ConnectionFacts } from './access.ts';
import type { Principal } from './policy.ts';

/** One JSON object of the event stream. */
export type TargetEvent = Record<string, unknown> & { eventName: string };

/**
 * The event of one connection whose access was decided, shaped like CloudTrail's NewClientConnection.
 *
 * `efsAgentDetails` is ours: what the service does not say and a user of the local target wants to know.
 * Source: Amazon EFS user guide, "Logging Amazon EFS API calls with AWS CloudTrail".
 */
export function newClientConnectionEvent(
  account: AccountFacts,
  connection: ConnectionFacts,
  outcome: AccessOutcome,
  nowMs: number,
): TargetEvent {
  const arns = arnsOf(account);
  const resource = (type: string, ARN: string) => ({ accountId: account.accountId, type, ARN });
  const { fileSystemId, accessPointId, principal, accessKeyId, clientInfo } = outcome.subject;
  const denied = { ClientMount: false, ClientWrite: false, ClientRootAccess: false };
  return {
    eventVersion: '1.08',
    userIdentity: userIdentity(principal, accessKeyId),
    eventTime: awsTime(nowMs),
    eventSource: 'elasticfilesystem.amazonaws.com',
    eventName: 'NewClientConnection',
    awsRegion: account.region,
    sourceIPAddress: 'AWS Internal',
    userAgent: 'elasticfilesystem',
    ...(outcome.kind === 'granted' ? {} : { errorCode: 'AccessDenied' }),
    requestParameters: null,
    responseElements: null,
    eventID: randomUUID(),
    readOnly: true,
    resources: [
      ...(fileSystemId === null ? [] : [resource('AWS::EFS::FileSystem', arns.fileSystem(fileSystemId))]),
      ...(accessPointId === null ? [] : [resource('AWS::EFS::AccessPoint', arns.accessPoint(accessPointId))]),
    ],
    eventType: 'AwsServiceEvent',
    managementEvent: true,
    eventCategory: 'Management',
    recipientAccountId: account.accountId,
    serviceEventDetails: {
      permissions: outcome.kind === 'granted' ? outcome.decision.permissions : denied,
      sourceIpAddress: connection.sourceIp,
    },
    efsAgentDetails: {
      connectionId: connection.connectionId,
      sourcePort: connection.sourcePort,
      transport: connection.transport,
      clientInfo,
      ...(outcome.kind === 'denied' ? { reason: outcome.reason, detail: outcome.detail } : {}),
      ...(outcome.decision === null ? {} : { decidedBy: outcome.decision.decidedBy }),
    },
  };
}

/**
 * The event of a connection that has ended, also of one that ended before access was decided.
 *
 * Units: bytes of NFS as the client sent and received them, inside TLS.
 */
export function connectionClosedEvent(
  connection: ConnectionFacts,
  counters: { bytesReceived: number; bytesSent: number },
  failure: string | null,
  nowMs: number,
): TargetEvent {
  return {
    eventName: 'ConnectionClosed',
    eventTime: awsTime(nowMs),
    ...connection,
    ...counters,
    ...(failure === null ? {} : { failure }),
  };
}

/** An instant as AWS writes it, in whole seconds. */
export function awsTime(instantMs: number): string {
  return new Date(instantMs).toISOString().replace(/\.\d+Z$/, 'Z');
}

function userIdentity(principal: Principal, accessKeyId: string | null) {
  if (principal.kind === 'anonymous') {
    return { type: 'AWSAccount', principalId: '', accountId: 'ANONYMOUS_PRINCIPAL' };
  }
  const { accountId, roleArn, sessionArn } = principal;
  const principalId = principalIdOf(roleArn);
  const issuer = { type: 'Role', principalId, arn: roleArn, accountId, userName: lastPart(roleArn) };
  return {
    type: 'AssumedRole',
    principalId: `${principalId}:${lastPart(sessionArn)}`,
    arn: sessionArn,
    accountId,
    accessKeyId,
    sessionContext: { sessionIssuer: issuer },
  };
}

/** A made-up unique id of a role, the same for the same role. */
export function principalIdOf(roleArn: string): string {
  return `AROA${Buffer.from(roleArn).toString('hex').toUpperCase().slice(-17)}`;
}

function lastPart(arn: string): string {
  return arn.slice(arn.lastIndexOf('/') + 1);
}
