import type { ErrorMessage } from './errors.ts';

/**
 * Messages between the agent and an identity process, over the IPC channel of `child_process.fork`.
 *
 * There is one identity process per caller environment: `start` carries that caller's `AWS_*` variables
 * and the process uses them for every request it gets. It leaves after a minute without requests.
 */

/** Which credential source the user named, if any; a named source is the only one tried. */
export interface CredentialsRequest {
  awsProfile: string | null;
  awsCredsUri: string | null;
  /** With `jwtPath`: the role to assume with the web identity token in that file. Neither works alone. */
  roleArn: string | null;
  jwtPath: string | null;
}

export interface CertificateRequest {
  fileSystemId: string;
  accessPointId: string | null;
  region: string;
  /** Suffix of AWS host names, for example `amazonaws.com`: the STS endpoint is `sts.<region>.<suffix>`. */
  dnsSuffix: string;
  /** Common name of subject and issuer; truncated to 64 characters (specification 5.2). */
  commonName: string;
  clientInfo: { source: string; version: string };
  /** RSA-3072, PKCS#8 PEM. */
  privateKeyPem: string;
  /** Null for a certificate without a signature (no `iam`). */
  credentials: CredentialsRequest | null;
}

export type AgentToIdentity =
  | {
      kind: 'start';
      /** The caller's allow-listed `AWS_*` variables; the process's own are removed. */
      environment: Record<string, string>;
      /** Base URL of the instance metadata service; null = the SDK's default, 169.254.169.254. */
      metadataEndpoint: string | null;
      /** Home directory whose `.aws/credentials` and `.aws/config` are read. */
      home: string;
      /** Base URL of the ECS credential endpoint; absent = http://169.254.170.2. Only tests say otherwise. */
      containerEndpoint?: string;
      /** Leaves after so long without requests; absent = one minute. Only tests say otherwise. */
      idleExitMs?: number;
    }
  | { kind: 'certificate'; requestId: number; request: CertificateRequest }
  /** Where this instance runs, from its identity document; `withZoneId` costs one more question. */
  | { kind: 'instance'; requestId: number; withZoneId?: boolean }
  /** The mount target to use when the name of the file system cannot be resolved. */
  | { kind: 'mountTargets'; requestId: number; request: MountTargetsRequest }
  /** Writes an event to CloudWatch Logs. */
  | { kind: 'publish'; requestId: number; event: LogEvent }
  /** Who the credentials belong to; asks STS if the source does not say. */
  | { kind: 'whoami'; requestId: number; credentials: CredentialsRequest; region: string; dnsSuffix: string };

export interface MountTargetsRequest {
  fileSystemId: string;
  /** Name of the availability zone the user asked for; null = the instance's own, or any when that is unknown. */
  zone: string | null;
  region: string;
  dnsSuffix: string;
  credentials: CredentialsRequest;
}

/** An event for CloudWatch Logs, and where it belongs. */
export interface LogEvent {
  message: string;
  /** Epoch milliseconds. */
  atMs: number;
  /** May contain `{fs_id}`. */
  logGroup: string;
  /** Null = events are kept for ever. */
  retentionDays: number | null;
  fileSystemId: string | null;
  region: string;
  dnsSuffix: string;
  credentials: CredentialsRequest;
}

/** One mount target that is available. */
export interface MountTargetFacts {
  mountTargetId: string;
  /** Name of its availability zone; null when the service does not say. */
  zone: string | null;
  /** IPv4 before IPv6; at least one. */
  addresses: string[];
}

/** Where credentials came from and whose they are. No secret. */
export interface IdentityFacts {
  /** `environment`, `ecs:<uri>`, `credentials:<profile>`, `config:<profile>`, `named_profile:<profile>`, `podidentity:<uri>`, `webidentity:<role arn>`, `metadata:<role>`. */
  source: string;
  accessKeyId: string;
  /** Null when the source does not say; `whoami` then asks STS. */
  arn: string | null;
  /** Epoch milliseconds; null for long-lived keys. */
  expiresAtMs: number | null;
}

export interface CertificateReply {
  certificatePem: string;
  notBeforeMs: number;
  notAfterMs: number;
  identity: IdentityFacts | null;
}

export interface InstanceFacts {
  region: string;
  availabilityZone: string;
  instanceId: string;
  accountId: string;
  /** For example `use1-az1`; null when nobody asked for it. */
  availabilityZoneId: string | null;
}

export type IdentityToAgent =
  | { kind: 'ready'; pid: number }
  | { kind: 'certificate.done'; requestId: number; reply: CertificateReply }
  | { kind: 'instance.done'; requestId: number; instance: InstanceFacts }
  | { kind: 'mountTargets.done'; requestId: number; mountTarget: MountTargetFacts }
  | { kind: 'whoami.done'; requestId: number; identity: IdentityFacts }
  | { kind: 'publish.done'; requestId: number }
  | { kind: 'failed'; requestId: number; error: ErrorMessage };
