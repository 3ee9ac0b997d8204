import { AgentError, type ErrorMessage } from './errors.ts';
import type { IdentityFacts } from './identity-protocol.ts';
import type { MountPhase } from './mount-life.ts';
import { checkMountSpec, type MountSpec } from './mount-spec.ts';
import { type LogLevel, logLevels } from './ports.ts';

/**
 * Messages between a helper or command and the agent over `control.sock`: one JSON object per line.
 *
 * A connection carries one conversation. For a mount it stays open until the kernel has mounted or refused:
 * if it ends before `mount.ended`, and the caller cannot be called either, it died and the agent undoes everything.
 */
export const protocolVersion = 1;

/** Longest line the agent accepts, in bytes. A web-identity environment of a few KiB fits many times. */
export const maxLineBytes = 256 * 1024;

/** Longest line a client accepts from the agent: the status of some ten thousand mounts. */
export const maxAnswerBytes = 16 * 1024 * 1024;

/** Names of the caller's environment that travel with a request; all others stay with the caller. */
export const forwardedEnvironment = [
  'AWS_REGION',
  'AWS_DEFAULT_REGION',
  'AWS_PROFILE',
  'AWS_USE_FIPS_ENDPOINT',
  'AWS_CONTAINER_CREDENTIALS_RELATIVE_URI',
  'AWS_CONTAINER_CREDENTIALS_FULL_URI',
  'AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE',
  'AWS_ROLE_ARN',
  'AWS_WEB_IDENTITY_TOKEN_FILE',
  'AWS_ACCESS_KEY_ID',
  'AWS_SECRET_ACCESS_KEY',
  'AWS_SESSION_TOKEN',
  'AWS_SHARED_CREDENTIALS_FILE',
  'AWS_CONFIG_FILE',
  'AWS_EC2_METADATA_DISABLED',
  'AWS_EC2_METADATA_SERVICE_ENDPOINT',
  'AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE',
  'AWS_ENDPOINT_URL',
  'AWS_ENDPOINT_URL_STS',
  'AWS_ENDPOINT_URL_EFS',
  'AWS_ENDPOINT_URL_EC2',
  'AWS_ENDPOINT_URL_CLOUDWATCH_LOGS',
] as const;

export type ClientMessage =
  /** Opens the tunnel of a mount. `mountPoint` is absolute; null for `efs-agent tunnel`, which mounts nothing. */
  | {
      kind: 'tunnel.open';
      version: number;
      spec: MountSpec;
      mountPoint: string | null;
      environment: Record<string, string>;
      /**
       * Name of a socket in the runtime directory on which the caller listens while it mounts: when this connection breaks,
       * the agent, or the next one, calls there, and the conversation goes on. Null when it cannot be called.
       */
      callerSocket: string | null;
    }
  /** Asks what the agent serves at a mount point where the kernel has an NFS mount, and whether it is this one. */
  | {
      kind: 'compare';
      version: number;
      spec: MountSpec;
      mountPoint: string;
      environment: Record<string, string>;
    }
  /** What mount.nfs4 said. `stderr` is the kernel's or mount.nfs4's own text. */
  | { kind: 'mount.ended'; status: number; stderr: string }
  /** The mount point has been unmounted by the caller: its tunnel may go. */
  | { kind: 'unmounted'; version: number; mountPoint: string }
  | { kind: 'status'; version: number }
  /** How much the agent logs; null only asks, level null = the configured one again. */
  | {
      kind: 'log-level';
      version: number;
      change: { level: LogLevel | null; forMs: number | null } | null;
    }
  /** Another build of the agent is to go on in the place of the running one; `program` is its `agent.cjs`. */
  | { kind: 'takeover'; version: number; program: string }
  /** Whose credentials a mount uses, or a mount by this caller would use when `mountPoint` is null. */
  | {
      kind: 'whoami';
      version: number;
      mountPoint: string | null;
      region: string | null;
      environment: Record<string, string>;
    };

export type AgentMessage =
  /** One line of progress, for `-v` and for mounts that take long. */
  | { kind: 'progress'; phase: string; elapsedMs: number }
  | {
      kind: 'tunnel.ready';
      /** What mount.nfs4 connects to: 127.0.0.1, or without a tunnel the mount target; IPv6 in brackets. */
      server: string;
      /** Local port of the tunnel, or another one than 2049 of a mount target without a tunnel; else null. */
      port: number | null;
      dnsName: string;
      fileSystemId: string;
      retry: MountRetry;
      readAhead: boolean;
    }
  /** The mount is recorded; the tunnel stays. */
  | { kind: 'mounted' }
  /** The tunnel is gone (after `unmounted`); `found` is false when no tunnel served that mount point. */
  | { kind: 'closed'; found: boolean }
  /** The process that goes on; the one that answers ends. */
  | { kind: 'taken-over'; pid: number }
  | { kind: 'compared'; served: ServedMount | null }
  | { kind: 'status'; status: AgentStatus }
  | { kind: 'log-level'; state: LogLevelState }
  /** Null for a mount without `iam`. */
  | { kind: 'identity'; identity: IdentityFacts | null }
  | { kind: 'failed'; error: ErrorMessage };

/** A mount that the agent serves, compared with one that was asked for. */
export interface ServedMount {
  /** `<file system>:<path>`, and through which access point, for people. */
  description: string;
  /** In what it differs from what was asked for, for people; empty when it is the same. */
  differences: string[];
  /** In what its tunnel differs: the same data, another way to it. */
  tunnelDifferences: string[];
  /** Local port of its tunnel; null without one. */
  port: number | null;
  /** What mount.nfs4 was given as the server. */
  server: string;
}

/** How often and how long mount.nfs4 may try (specification 7.4). */
export interface MountRetry {
  attempts: number;
  /** Limit of every attempt but the last, in milliseconds. */
  attemptTimeoutMs: number;
}

/** How much the agent logs. */
export interface LogLevelState {
  level: LogLevel;
  configured: LogLevel;
  /** Epoch milliseconds at which the configured level returns by itself; null = it does not, or it is the one. */
  untilMs: number | null;
}

export interface AgentStatus {
  version: string;
  pid: number;
  startedAtMs: number;
  worker: { pid: number | null; state: string; restarts: number; bufferedBytes: number };
  mounts: MountStatus[];
}

/** The last of the failures, and since when there have been nothing else. Units: epoch milliseconds. */
export type CredentialsAlarm = ErrorMessage & { sinceMs: number };

/** Units: epoch milliseconds; bytes since the tunnel was opened, up = to the mount target. */
export interface MountStatus {
  mountId: string;
  fileSystemId: string;
  accessPointId: string | null;
  path: string;
  mountPoint: string | null;
  /** `detached`: unmounted, but the kernel still uses the tunnel: for an open file, or for another mount. */
  state: MountPhase | 'reconnecting' | 'stalled' | 'detached';
  /** False for a mount without `tls`: the kernel talks to the mount target itself. */
  tls: boolean;
  iam: boolean;
  /** Local port of the tunnel; null without one. */
  port: number | null;
  dnsName: string;
  address: string | null;
  tlsVersion: string | null;
  cipher: string | null;
  serverCertificateExpiresAtMs: number | null;
  identity: IdentityFacts | null;
  clientCertificateExpiresAtMs: number | null;
  /** Connections of the kernel. */
  sessions: number;
  /** TLS connections that carry them. */
  connections: number;
  /** How often the kernel has connected again. */
  reconnects: number;
  bytesUp: number;
  bytesDown: number;
  /** Over the last second. */
  bytesUpPerSecond: number;
  bytesDownPerSecond: number;
  requestsInFlight: number;
  /** Age of the oldest of them, to a second; 0 when there is none. */
  oldestRequestMs: number;
  /** While no new client certificate can be had. The one in use stays, and so do open connections. */
  alarm: CredentialsAlarm | null;
  /** What went wrong last, which may be over. */
  lastError: (ErrorMessage & { atMs: number }) | null;
}

/** What there is to tell of a mount that has no connection of ours. */
export const withoutConnection = {
  tlsVersion: null,
  cipher: null,
  serverCertificateExpiresAtMs: null,
  identity: null,
  clientCertificateExpiresAtMs: null,
  sessions: 0,
  connections: 0,
  reconnects: 0,
  bytesUp: 0,
  bytesDown: 0,
  bytesUpPerSecond: 0,
  bytesDownPerSecond: 0,
  requestsInFlight: 0,
  oldestRequestMs: 0,
  alarm: null,
  lastError: null,
} as const satisfies Partial<MountStatus>;

/**
 * Reads one line a client sent.
 *
 * Errors: `agent.protocol` for anything that is not a well-formed message of this version.
 */
export function parseClientMessage(line: string): ClientMessage {
  const value = parseObject(line);
  const kind = value['kind'];
  switch (kind) {
    case 'tunnel.open':
      return {
        kind,
        version: checkVersion(value['version']),
        spec: checkMountSpec(value['spec']),
        mountPoint: value['mountPoint'] === null ? null : checkAbsolutePath(value['mountPoint']),
        environment: checkEnvironment(value['environment']),
        callerSocket: checkCallerSocket(value['callerSocket'] ?? null),
      };
    case 'compare':
      return {
        kind,
        version: checkVersion(value['version']),
        spec: checkMountSpec(value['spec']),
        mountPoint: checkAbsolutePath(value['mountPoint']),
        environment: checkEnvironment(value['environment']),
      };
    case 'mount.ended':
      return {
        kind,
        status: checkInteger(value['status'], 'status'),
        stderr: checkText(value['stderr'], 'stderr'),
      };
    case 'unmounted':
      return {
        kind,
        version: checkVersion(value['version']),
        mountPoint: checkAbsolutePath(value['mountPoint']),
      };
    case 'takeover':
      return {
        kind,
        version: checkVersion(value['version']),
        program: checkAbsolutePath(value['program'], 'program'),
      };
    case 'status':
      return { kind, version: checkVersion(value['version']) };
    case 'log-level':
      return { kind, version: checkVersion(value['version']), change: checkLevelChange(value['change']) };
    case 'whoami':
      return {
        kind,
        version: checkVersion(value['version']),
        mountPoint: value['mountPoint'] === null ? null : checkAbsolutePath(value['mountPoint']),
        region: value['region'] === null ? null : checkText(value['region'], 'region'),
        environment: checkEnvironment(value['environment']),
      };
    default:
      throw new AgentError(
        'agent.protocol',
        `the agent does not know the request ${JSON.stringify(kind)?.slice(0, 40)}`,
      );
  }
}

/** Reads one line the agent sent; the agent is trusted with the inner shape. Errors: `agent.protocol`. */
export function parseAgentMessage(line: string): AgentMessage {
  const value = parseObject(line);
  if (typeof value['kind'] !== 'string')
    throw new AgentError('agent.protocol', 'the agent sent a message without a kind');
  return value as unknown as AgentMessage;
}

/** One message as the line that carries it. */
export function formatMessage(message: ClientMessage | AgentMessage): string {
  return `${JSON.stringify(message)}\n`;
}

/** The caller's variables that travel with a request; empty ones count as unset. */
export function pickEnvironment(
  environment: Readonly<Record<string, string | undefined>>,
): Record<string, string> {
  const picked: Record<string, string> = {};
  for (const name of forwardedEnvironment) {
    const value = environment[name];
    if (value !== undefined && value !== '') picked[name] = value;
  }
  return picked;
}

/**
 * Cuts a byte stream into lines.
 *
 * Units: bytes. Errors: `agent.protocol` when a line is longer than `longestBytes`.
 */
export function createLineSplitter(longestBytes = maxLineBytes): (chunk: Buffer) => string[] {
  let pending: Buffer[] = [];
  let pendingBytes = 0;
  return (chunk) => {
    const lines: string[] = [];
    let start = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, start)) {
      checkLength(pendingBytes + end - start, longestBytes);
      lines.push(Buffer.concat([...pending, chunk.subarray(start, end)]).toString('utf8'));
      pending = [];
      pendingBytes = 0;
      start = end + 1;
    }
    if (start < chunk.length) {
      pending.push(chunk.subarray(start));
      pendingBytes += chunk.length - start;
      checkLength(pendingBytes, longestBytes);
    }
    return lines;
  };
}

function checkLength(bytes: number, longestBytes: number): void {
  if (bytes > longestBytes)
    throw new AgentError('agent.protocol', `a control message is longer than ${longestBytes} bytes`);
}

function parseObject(line: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new AgentError('agent.protocol', 'a control message is not JSON', {}, cause);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new AgentError('agent.protocol', 'a control message is not a JSON object');
  }
  return value as Record<string, unknown>;
}

function checkVersion(value: unknown): number {
  const version = checkInteger(value, 'version');
  if (Math.abs(version - protocolVersion) > 1) {
    throw new AgentError(
      'agent.protocol',
      `the helper speaks control protocol ${version}, the agent ${protocolVersion}`,
    );
  }
  return version;
}

function checkInteger(value: unknown, name: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value)) throw malformed(name);
  return value;
}

function checkLevelChange(value: unknown): Extract<ClientMessage, { kind: 'log-level' }>['change'] {
  if (value === null) return null;
  if (typeof value !== 'object') throw malformed('change');
  const { level, forMs } = value as Record<string, unknown>;
  const known = logLevels.find((name) => name === level) ?? null;
  if (known === null && level !== null) throw malformed('level');
  return { level: known, forMs: forMs === null ? null : checkInteger(forMs, 'forMs') };
}

function checkText(value: unknown, name: string): string {
  if (typeof value !== 'string') throw malformed(name);
  return value;
}

function checkAbsolutePath(value: unknown, name = 'mountPoint'): string {
  const path = checkText(value, name);
  if (!path.startsWith('/') || path.includes('\0')) throw malformed(name);
  return path;
}

/** Whether a value can be the name of a caller's socket: that of a file, and never a path. */
export const isCallerSocketName = (value: unknown): value is string =>
  typeof value === 'string' && /^[0-9a-f]{16}$/.test(value);

function checkCallerSocket(value: unknown): string | null {
  if (value !== null && !isCallerSocketName(value)) throw malformed('callerSocket');
  return value;
}

function checkEnvironment(value: unknown): Record<string, string> {
  if (typeof value !== 'object' || value === null) throw malformed('environment');
  return pickEnvironment(value as Record<string, string | undefined>);
}

function malformed(name: string): AgentError {
  return new AgentError('agent.protocol', `the field ${name} of a control message is malformed`);
}
