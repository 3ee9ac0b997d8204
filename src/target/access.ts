import type { AccessPoint } from './access-point.ts';
import type { CertificateVerdict, RefusalReason } from './client-certificate.ts';
import { type DecidedBy, type Decision, decidePermissions, type Policy, type Principal } from './policy.ts';

/** The account and region the mount target stands in. */
export interface AccountFacts {
  region: string;
  dnsSuffix: string;
  partition: string;
  accountId: string;
}

/** One accepted connection. */
export interface ConnectionFacts {
  connectionId: string;
  sourceIp: string;
  sourcePort: number;
  transport: 'tls' | 'tcp';
}

/** Who asks for what, as far as it is known. */
export interface AccessSubject {
  principal: Principal;
  accessKeyId: string | null;
  fileSystemId: string | null;
  accessPointId: string | null;
  clientInfo: readonly string[];
}

export type DenialReason =
  | RefusalReason
  | 'policy'
  | 'file-system-unknown'
  | 'file-system-mismatch'
  | 'access-point-unknown'
  | 'access-point-root-missing';

export type AccessOutcome =
  | {
      kind: 'granted';
      subject: AccessSubject;
      fileSystemId: string;
      accessPoint: AccessPoint | null;
      decision: Decision;
    }
  | {
      kind: 'denied';
      subject: AccessSubject;
      reason: DenialReason;
      detail: string;
      decision: Decision | null;
    };

export interface AccessQuestion {
  connection: ConnectionFacts;
  account: AccountFacts;
  /** Null = no client certificate. */
  verdict: CertificateVerdict | null;
  /** The name the client asked for in its TLS hello. */
  serverName: string | null;
  /** The file system whose mount target the address is; null = the address serves all. */
  listenerFileSystemId: string | null;
  fileSystemIds: readonly string[];
  accessPoints: readonly AccessPoint[];
  policy: Policy | null;
}

/**
 * Decides whether a connection may mount, as whom, and what.
 *
 * A client without certificate, or with one that nobody signed, is anonymous. The file system is the one the
 * certificate names, else the one of the server name or the address, else the only one there is; all that are
 * given have to agree.
 */
export function decideAccess(question: AccessQuestion): AccessOutcome {
  const { verdict, connection, account, accessPoints, policy } = question;
  const claims = verdict === null || verdict.kind === 'refused' ? null : verdict.claims;
  const signed = verdict?.kind === 'signed' ? verdict : null;
  const named = [
    claims?.fileSystemId ?? null,
    fileSystemOf(question.serverName, account),
    question.listenerFileSystemId,
  ].filter((id) => id !== null);
  const fileSystemId = named[0] ?? (question.fileSystemIds.length === 1 ? question.fileSystemIds[0]! : null);
  const accessPointId = claims?.accessPointId ?? null;
  const subject: AccessSubject = {
    principal: signed?.principal ?? { kind: 'anonymous' },
    accessKeyId: signed?.accessKeyId ?? null,
    fileSystemId,
    accessPointId,
    clientInfo: claims?.clientInfo ?? [],
  };
  const deny = (reason: DenialReason, detail: string, decision: Decision | null = null): AccessOutcome => ({
    kind: 'denied',
    subject,
    reason,
    detail,
    decision,
  });

  if (verdict?.kind === 'refused') return deny(verdict.reason, verdict.detail);
  if (named.some((id) => id !== fileSystemId)) {
    return deny(
      'file-system-mismatch',
      `certificate, server name and address name different file systems: ${named.join(', ')}`,
    );
  }
  if (fileSystemId === null || !question.fileSystemIds.includes(fileSystemId)) {
    return deny('file-system-unknown', `there is no file system ${fileSystemId ?? '(none was named)'} here`);
  }
  const accessPoint = accessPoints.find(({ id }) => id === accessPointId) ?? null;
  if (accessPointId !== null && accessPoint?.fileSystemId !== fileSystemId) {
    return deny('access-point-unknown', `${fileSystemId} has no access point ${accessPointId}`);
  }
  const arns = arnsOf(account);
  const decision = decidePermissions(policy, {
    principal: subject.principal,
    fileSystemArn: arns.fileSystem(fileSystemId),
    accessPointArn: accessPointId === null ? null : arns.accessPoint(accessPointId),
    secureTransport: connection.transport === 'tls',
    accessedViaMountTarget: true,
    sourceIp: connection.sourceIp,
  });
  return decision.permissions.ClientMount
    ? { kind: 'granted', subject, fileSystemId, accessPoint, decision }
    : deny('policy', explainMountDenial(decision.decidedBy.ClientMount, subject.principal), decision);
}

/** Resource names of one account and region. */
export function arnsOf({ partition, region, accountId }: AccountFacts) {
  const prefix = `arn:${partition}:elasticfilesystem:${region}:${accountId}`;
  return {
    fileSystem: (id: string) => `${prefix}:file-system/${id}`,
    accessPoint: (id: string) => `${prefix}:access-point/${id}`,
  };
}

function fileSystemOf(serverName: string | null, { region, dnsSuffix }: AccountFacts): string | null {
  if (serverName === null) return null;
  const tail = `.efs.${region}.${dnsSuffix}`;
  const name = serverName.toLowerCase();
  // A name with a zone before the id leads to the same file system.
  return name.endsWith(tail)
    ? (/^(?:[a-z0-9-]+\.)?(fs-[0-9a-f]+)$/.exec(name.slice(0, -tail.length))?.[1] ?? null)
    : null;
}

function explainMountDenial(decidedBy: DecidedBy, principal: Principal): string {
  const who = principal.kind === 'anonymous' ? 'an anonymous client' : principal.sessionArn;
  return decidedBy.kind === 'statement'
    ? `${decidedBy.name} of the file-system policy denies ClientMount to ${who}`
    : `no statement of the file-system policy allows ClientMount to ${who}`;
}
