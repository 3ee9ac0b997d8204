import type { Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import { AgentError, asAgentError, type Details } from '../core/errors.ts';
import type {
  Endpoint,
  SessionCounters,
  SessionEnd,
  TlsMaterial,
  UpstreamFacts,
  WorkerToAgent,
} from '../core/worker-protocol.ts';
import type { Budget } from './budget.ts';
import { createTunnelContext, dialUpstream, renderEndpoint, type Upstream } from './dial.ts';
import type { SlabPool } from './gather.ts';
import { Session } from './session.ts';

/** A probed connection that no session has taken by then is given up. */
const warmMs = 60_000;

/** What all tunnels of a worker share. */
export interface TunnelHost {
  budget: Budget;
  slabs: SlabPool;
  random: () => number;
  report(message: WorkerToAgent): void;
  log(level: 'error' | 'warn' | 'info' | 'debug', event: string, fields: Details): void;
  /** A session is gone. */
  sessionGone(): void;
}

/** One mount's way to its mount target: TLS material, sessions, and at most one warm connection. */
export class Tunnel {
  readonly id: string;
  readonly #host: TunnelHost;
  readonly #probing = new Set<AbortController>();
  readonly #sessions = new Set<Session>();
  /** Sockets that have arrived, of which the agent still has a copy. */
  readonly #taken = new Map<number, Socket>();
  /** Of the sessions that are gone. */
  readonly #past: SessionCounters = { bytesUp: 0, bytesDown: 0 };
  #serverName = '';
  #secureContext: SecureContext | AgentError;
  #dialTimeoutMs = 0;
  #endpoints: readonly Endpoint[] = [];
  #warm: { upstream: Upstream; expiry: NodeJS.Timeout } | null = null;

  constructor(id: string, host: TunnelHost) {
    this.id = id;
    this.#host = host;
    this.#secureContext = new AgentError('internal', `tunnel ${id} was given no certificates`);
  }

  /** Takes the material for connections dialled from now on. What cannot be used is logged, and the old stays in use. */
  replaceMaterial(tls: TlsMaterial, dialTimeoutMs: number): void {
    this.#dialTimeoutMs = dialTimeoutMs;
    try {
      this.#secureContext = createTunnelContext(tls);
      this.#serverName = tls.serverName;
    } catch (thrown) {
      const error = asAgentError(thrown);
      if (this.#secureContext instanceof AgentError) this.#secureContext = error;
      this.#log('error', 'tunnel.material-rejected', { code: error.code, message: error.message });
    }
  }

  set endpoints(endpoints: readonly Endpoint[]) {
    this.#endpoints = endpoints;
  }

  get openSessions(): number {
    return this.#sessions.size + this.#taken.size;
  }

  get totals(): SessionCounters {
    const totals = { ...this.#past };
    for (const session of this.#sessions) {
      totals.bytesUp += session.counters.bytesUp;
      totals.bytesDown += session.counters.bytesDown;
    }
    return totals;
  }

  /** Dials now, and keeps the connection for the first session. Reports `probe.done` or `probe.failed`. */
  async probe(requestId: number): Promise<void> {
    const aborting = new AbortController();
    this.#probing.add(aborting);
    try {
      const upstream = await this.#dial(aborting.signal);
      this.#keepWarm(upstream);
      this.#host.report({ kind: 'probe.done', tunnelId: this.id, requestId, upstream: upstream.facts });
    } catch (thrown) {
      const error = asAgentError(thrown).toMessage();
      this.#host.report({ kind: 'probe.failed', tunnelId: this.id, requestId, error });
    } finally {
      this.#probing.delete(aborting);
    }
  }

  /** Confirms that a local socket has arrived; nothing is read from it yet. */
  takeSession(sessionId: number, local: Socket): void {
    this.#taken.set(sessionId, local);
    this.#host.report({ kind: 'session.taken', tunnelId: this.id, sessionId });
  }

  /** Nobody is left who could take these sockets back: they are ours. */
  startTakenSessions(): void {
    for (const sessionId of [...this.#taken.keys()]) this.startSession(sessionId);
  }

  /** Serves one local stream until it ends. */
  startSession(sessionId: number): void {
    const local = this.#taken.get(sessionId);
    if (local === undefined) return;
    this.#taken.delete(sessionId);
    this.#log('info', 'session.accepted', { session: sessionId });
    const session = new Session(local, {
      budget: this.#host.budget,
      slabs: this.#host.slabs,
      random: this.#host.random,
      connect: async (signal) => this.#takeWarm() ?? (await this.#dial(signal)),
      wantEndpoints: () => this.#host.report({ kind: 'endpoints.wanted', tunnelId: this.id }),
      dialFailed: (error, again) =>
        this.#log(again ? 'debug' : 'warn', 'upstream.failed', {
          session: sessionId,
          code: error.code,
          message: error.message,
        }),
      connected: (upstream) =>
        this.#host.report({ kind: 'session.connected', tunnelId: this.id, sessionId, upstream }),
      closed: (cause, counters, error) => this.#sessionClosed(session, sessionId, cause, counters, error),
    });
    this.#sessions.add(session);
  }

  /** Destroys everything. */
  close(): void {
    for (const aborting of this.#probing) aborting.abort();
    this.cool();
    for (const local of this.#taken.values()) local.on('error', () => {}).resetAndDestroy();
    this.#taken.clear();
    for (const session of this.#sessions) session.destroy('tunnel-closed');
  }

  /** Gives up the warm connection, if there is one. */
  cool(): void {
    this.#takeWarm()?.socket.destroy();
  }

  async #dial(signal: AbortSignal): Promise<Upstream> {
    if (this.#secureContext instanceof AgentError) throw this.#secureContext;
    const upstream = await dialUpstream({
      endpoints: this.#endpoints,
      serverName: this.#serverName,
      secureContext: this.#secureContext,
      timeoutMs: this.#dialTimeoutMs,
      signal,
    });
    this.#logConnected(upstream.facts);
    return upstream;
  }

  #keepWarm(upstream: Upstream): void {
    this.cool();
    const forget = (): void => {
      if (this.#warm?.upstream === upstream) this.#takeWarm();
      upstream.socket.destroy();
    };
    this.#warm = { upstream, expiry: setTimeout(forget, warmMs) };
    const forgetIfWarm = (): void => {
      if (this.#warm?.upstream === upstream) forget();
    };
    // A server that speaks first is none of ours.
    upstream.readInto(() => {
      forgetIfWarm();
      return false;
    });
    upstream.socket.on('end', forgetIfWarm).on('error', forgetIfWarm).on('close', forgetIfWarm);
  }

  #takeWarm(): Upstream | null {
    if (this.#warm === null) return null;
    const { upstream, expiry } = this.#warm;
    clearTimeout(expiry);
    this.#warm = null;
    return upstream;
  }

  #sessionClosed(
    session: Session,
    sessionId: number,
    cause: SessionEnd,
    counters: SessionCounters,
    error: string | null,
  ): void {
    this.#sessions.delete(session);
    this.#past.bytesUp += counters.bytesUp;
    this.#past.bytesDown += counters.bytesDown;
    const unusual = cause === 'upstream-reset' || cause === 'upstream-unreachable';
    this.#log(unusual ? 'warn' : 'info', 'session.closed', { session: sessionId, cause, ...counters, error });
    this.#host.report({ kind: 'session.closed', tunnelId: this.id, sessionId, cause, ...counters });
    this.#host.sessionGone();
  }

  #logConnected(facts: UpstreamFacts): void {
    this.#log('info', 'upstream.connected', {
      endpoint: renderEndpoint(facts),
      tlsVersion: facts.tlsVersion,
      cipher: facts.cipher,
    });
    this.#log('info', 'certificate.accepted', {
      depth: 0,
      subject: facts.subject,
      issuer: facts.issuer,
      expires: new Date(facts.certificateExpiresAtMs).toISOString(),
      serverName: this.#serverName,
    });
  }

  #log(level: 'error' | 'warn' | 'info' | 'debug', event: string, fields: Details): void {
    this.#host.log(level, event, { tunnel: this.id, ...fields });
  }
}
