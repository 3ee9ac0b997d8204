import type { Details, ErrorMessage } from './errors.ts';
import type { EventName } from './events.ts';
import type { LogLevel } from './ports.ts';

/**
 * Messages between the agent and a tunnel worker, over the IPC channel of `child_process.fork`
 * (serialization `advanced`). Everything the worker ever learns arrives here: it opens no file.
 *
 * When that agent is gone, the worker connects to `callbackSocket` until there is another one, and both speak
 * the same messages there, one JSON object a line: the worker begins with `hello`, and takes only the messages of
 * `AgentToOrphan`.
 */

/** An address to dial, in the order of preference. `address` is an IPv4 or IPv6 literal without brackets. */
export interface Endpoint {
  address: string;
  port: number;
}

/** What a worker needs to speak TLS for one tunnel. PEM texts. Never logged. */
export interface TlsMaterial {
  /** Trust anchors: the only ones; the system's store is not added. */
  trustedRootsPem: string[];
  /** SNI, and the name the server certificate must carry (no zone prefix). */
  serverName: string;
  /** The client certificate and its key; null when the mount presents none. */
  client: { certificatePem: string; privateKeyPem: string } | null;
}

export type AgentToWorker =
  /** First message: everything that concerns the whole worker. */
  | {
      kind: 'start';
      dropTo: { uid: number; gid: number } | null;
      /** Bounds all buffered bytes. */
      budgetBytes: number;
      /** A mount target that owes an answer and sends nothing for this long has stalled. */
      stallTimeoutMs: number;
      /** Most TLS connections for one local connection; 1 = never ask the mount target for more. */
      maxConnections: number;
      /** Path of the unix socket on which a later agent finds this worker; null = none will look. */
      callbackSocket: string | null;
    }
  /** Opens a tunnel, or replaces its material for connections dialled from now on; open ones stay untouched. */
  | { kind: 'tunnel.open'; tunnelId: string; tls: TlsMaterial; dialTimeoutMs: number }
  /** Dials, finishes the TLS handshake, keeps the connection warm for the tunnel's first session, and answers `probe.done`. */
  | { kind: 'tunnel.probe'; tunnelId: string; requestId: number; endpoints: Endpoint[] }
  /** Where to dial from now on: the answer to `endpoints.wanted`. */
  | { kind: 'tunnel.endpoints'; tunnelId: string; endpoints: Endpoint[] }
  /** Ends the tunnel: all its sessions and its warm connection are destroyed; answered by `tunnel.closed`. */
  | { kind: 'tunnel.close'; tunnelId: string }
  /** An accepted local socket travels with this message; not a byte of it is read before `session.go`. */
  | { kind: 'session.open'; tunnelId: string; sessionId: number; endpoints: Endpoint[] }
  /** The agent has given up its copy of the socket: the session is the worker's alone. */
  | { kind: 'session.go'; tunnelId: string; sessionId: number }
  | { kind: 'ping'; sequence: number }
  /**
   * The last message with which sessions are touched: each ends when nothing of it is under way, and after
   * `deadlineMs` at the latest. Then the worker says `retired` and exits.
   */
  | { kind: 'retire'; deadlineMs: number };

/** What a worker whose agent is gone takes from the next one. */
export type AgentToOrphan = Extract<
  AgentToWorker,
  { kind: 'retire' | 'tunnel.close' | 'tunnel.endpoints' | 'ping' }
>;

/** What the TLS handshake with a mount target established. */
export interface UpstreamFacts {
  address: string;
  port: number;
  tlsVersion: string;
  cipher: string;
  subject: string;
  issuer: string;
  /** Epoch milliseconds. */
  certificateExpiresAtMs: number;
}

export interface SessionCounters {
  /** Bytes from the NFS client to the mount target. */
  bytesUp: number;
  /** Bytes from the mount target to the NFS client. */
  bytesDown: number;
}

/** One session as it is now. */
export interface SessionState extends SessionCounters {
  sessionId: number;
  /** Address of the mount target; null while it is dialled. */
  address: string | null;
  /** TLS connections that carry it. */
  connections: number;
  /** Requests without an answer. */
  inFlight: number;
  /** Age of the oldest of them, to a second; 0 when there is none. */
  oldestMs: number;
}

/** One tunnel as it is now; the counters are totals of all its sessions since it was opened in this worker. */
export interface TunnelState extends SessionCounters {
  tunnelId: string;
  /** Sessions, also those whose socket has just arrived. */
  sessions: number;
  open: SessionState[];
}

export type WorkerToAgent =
  | { kind: 'ready'; pid: number }
  /** The mount target has accepted the connection; the TLS handshake begins. */
  | { kind: 'probe.connected'; tunnelId: string; requestId: number }
  | { kind: 'probe.done'; tunnelId: string; requestId: number; upstream: UpstreamFacts }
  | { kind: 'probe.failed'; tunnelId: string; requestId: number; error: ErrorMessage }
  /** The worker is about to dial again and asks for fresh addresses; it goes on with the old ones if none come. */
  | { kind: 'endpoints.wanted'; tunnelId: string }
  /** The socket has arrived. Until then the agent keeps it, and gives it to the next worker if this one dies. */
  | { kind: 'session.taken'; tunnelId: string; sessionId: number }
  /** A try to connect has failed, otherwise than the one before; it goes on trying. */
  | { kind: 'session.failed'; tunnelId: string; sessionId: number; error: ErrorMessage }
  | { kind: 'session.connected'; tunnelId: string; sessionId: number; upstream: UpstreamFacts }
  | ({ kind: 'session.closed'; tunnelId: string; sessionId: number; cause: SessionEnd } & SessionCounters)
  | { kind: 'tunnel.closed'; tunnelId: string }
  /**
   * `tunnels` are those of which something has changed since the last pong. Resting: nothing moves and nobody owes an
   * answer; the worker says `stirred` when that ends.
   */
  | { kind: 'pong'; sequence: number; tunnels: TunnelState[]; bufferedBytes: number; isResting: boolean }
  | { kind: 'stirred' }
  /** The last session has ended after `retire`; the worker exits. */
  | { kind: 'retired'; pid: number }
  /** First message on the callback socket. */
  | { kind: 'hello'; pid: number; version: string; tunnels: TunnelState[] }
  /** One log line; the agent writes it. `fields` never holds a secret. */
  | { kind: 'log'; level: LogLevel; event: EventName; fields: Details };

/** Which side ended a session, and how. */
export type SessionEnd =
  | 'local-end'
  | 'local-reset'
  | 'upstream-end'
  | 'upstream-reset'
  | 'upstream-unreachable'
  /** The mount target owed an answer and was silent for too long. */
  | 'stalled'
  /** The worker was asked to retire. */
  | 'retired'
  /** Calm enough for one connection again. */
  | 'narrowed'
  /** The mount target has more connections for it in another partition. */
  | 'moved'
  | 'tunnel-closed';
