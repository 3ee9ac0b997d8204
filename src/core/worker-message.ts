import { AgentError, type Details, type ErrorMessage, type FaultCode, faults } from './errors.ts';
import { type EventName, events } from './events.ts';
import type {
  SessionEnd,
  SessionState,
  TunnelState,
  UpstreamFacts,
  WorkerToAgent,
} from './worker-protocol.ts';

/**
 * Reads what a tunnel worker says. It is the process that speaks with the network: the agent takes nothing from it on trust.
 *
 * Bounds: texts of 1 KiB, 16 details, 4,096 tunnels of 4,096 sessions. Errors: `agent.protocol` for anything else than a
 * message of `WorkerToAgent`; a kind or an event that is not known is null: a worker of another version may say more.
 */
export function parseWorkerMessage(value: unknown): WorkerToAgent | null {
  const message = readRecord(value);
  const kind = message['kind'];
  switch (kind) {
    case 'ready':
    case 'retired':
      return { kind, pid: readCount(message['pid']) };
    case 'probe.connected':
      return { kind, ...readRequest(message) };
    case 'probe.done':
      return { kind, ...readRequest(message), upstream: readUpstream(message['upstream']) };
    case 'probe.failed':
      return { kind, ...readRequest(message), error: readError(message['error']) };
    case 'endpoints.wanted':
    case 'tunnel.closed':
      return { kind, tunnelId: readText(message['tunnelId']) };
    case 'session.taken':
      return { kind, ...readSession(message) };
    case 'session.failed':
      return { kind, ...readSession(message), error: readError(message['error']) };
    case 'session.connected':
      return { kind, ...readSession(message), upstream: readUpstream(message['upstream']) };
    case 'session.closed':
      return { kind, ...readSession(message), ...readCounters(message), cause: readCause(message['cause']) };
    case 'pong':
      return {
        kind,
        sequence: readCount(message['sequence']),
        tunnels: readList(message['tunnels'], readTunnel),
        bufferedBytes: readCount(message['bufferedBytes']),
        isResting: message['isResting'] === true,
      };
    case 'stirred':
      return { kind };
    case 'hello':
      return {
        kind,
        pid: readCount(message['pid']),
        version: readText(message['version']),
        tunnels: readList(message['tunnels'], readTunnel),
      };
    case 'log': {
      const event = readEvent(message['event']);
      if (event === null) return null;
      return { kind, level: readLevel(message['level']), event, fields: readDetails(message['fields']) };
    }
    default:
      if (typeof kind !== 'string') throw malformed('kind');
      return null;
  }
}

const maxTextLength = 1_024;
const maxDetails = 16;
const maxListed = 4_096;

const causes: readonly SessionEnd[] = [
  'local-end',
  'local-reset',
  'upstream-end',
  'upstream-reset',
  'upstream-unreachable',
  'stalled',
  'retired',
  'narrowed',
  'moved',
  'tunnel-closed',
];

/** A worker of another version may know more of them; none of those is the kernel's hanging up. */
function readCause(value: unknown): SessionEnd {
  return causes.find((known) => known === value) ?? 'tunnel-closed';
}

function readRequest(message: Record<string, unknown>): { tunnelId: string; requestId: number } {
  return { tunnelId: readText(message['tunnelId']), requestId: readCount(message['requestId']) };
}

function readSession(message: Record<string, unknown>): { tunnelId: string; sessionId: number } {
  return { tunnelId: readText(message['tunnelId']), sessionId: readCount(message['sessionId']) };
}

function readCounters(message: Record<string, unknown>): { bytesUp: number; bytesDown: number } {
  return { bytesUp: readCount(message['bytesUp']), bytesDown: readCount(message['bytesDown']) };
}

function readTunnel(value: unknown): TunnelState {
  const tunnel = readRecord(value);
  return {
    tunnelId: readText(tunnel['tunnelId']),
    ...readCounters(tunnel),
    sessions: readCount(tunnel['sessions']),
    open: readList(tunnel['open'], readSessionState),
  };
}

function readSessionState(value: unknown): SessionState {
  const session = readRecord(value);
  return {
    sessionId: readCount(session['sessionId']),
    ...readCounters(session),
    address: session['address'] === null ? null : readText(session['address']),
    connections: readCount(session['connections']),
    inFlight: readCount(session['inFlight']),
    oldestMs: readCount(session['oldestMs']),
  };
}

function readUpstream(value: unknown): UpstreamFacts {
  const upstream = readRecord(value);
  return {
    address: readText(upstream['address']),
    port: readCount(upstream['port']),
    tlsVersion: readText(upstream['tlsVersion']),
    cipher: readText(upstream['cipher']),
    subject: readText(upstream['subject']),
    issuer: readText(upstream['issuer']),
    certificateExpiresAtMs: readNumber(upstream['certificateExpiresAtMs']),
  };
}

function readError(value: unknown): ErrorMessage {
  const error = readRecord(value);
  const code = readText(error['code']);
  if (!Object.hasOwn(faults, code)) throw malformed('code');
  return {
    code: code as FaultCode,
    message: readText(error['message']),
    details: readDetails(error['details']),
  };
}

function readDetails(value: unknown): Details {
  const entries = Object.entries(readRecord(value));
  if (entries.length > maxDetails) throw malformed('fields');
  return Object.fromEntries(
    entries.map(([name, detail]) => {
      if (name.length > maxTextLength) throw malformed('fields');
      if (detail === null || typeof detail === 'boolean') return [name, detail];
      return [name, typeof detail === 'number' ? detail : readText(detail)];
    }),
  );
}

function readLevel(value: unknown): 'error' | 'warn' | 'info' | 'debug' {
  if (value !== 'error' && value !== 'warn' && value !== 'info' && value !== 'debug')
    throw malformed('level');
  return value;
}

/** The name of a log line, which programs look for; null for one that only another version has. */
function readEvent(value: unknown): EventName | null {
  if (typeof value !== 'string' || !/^[a-z][a-z0-9.-]{0,63}$/.test(value)) throw malformed('event');
  return Object.hasOwn(events, value) ? (value as EventName) : null;
}

function readList<T>(value: unknown, read: (item: unknown) => T): T[] {
  if (!Array.isArray(value) || value.length > maxListed) throw malformed('list');
  return value.map(read);
}

function readRecord(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw malformed('object');
  return value as Record<string, unknown>;
}

/** Longer texts come from names in certificates, which a mount target chooses: they are cut. */
function readText(value: unknown): string {
  if (typeof value !== 'string') throw malformed('text');
  return value.length <= maxTextLength ? value : value.slice(0, maxTextLength);
}

function readNumber(value: unknown): number {
  if (typeof value !== 'number') throw malformed('number');
  return value;
}

function readCount(value: unknown): number {
  const count = readNumber(value);
  if (!Number.isSafeInteger(count) || count < 0) throw malformed('number');
  return count;
}

function malformed(what: string): AgentError {
  return new AgentError('agent.protocol', `a tunnel worker sent a message with a malformed ${what}`);
}
