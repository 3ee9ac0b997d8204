import type { Socket } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';
import type { SecureContext } from 'node:tls';
import { planDelayMs } from '../core/backoff.ts';
import type { BindForm, BindReply, ProxyIdentity, ScaleSettings } from '../core/bind-call.ts';
import { AgentError, asAgentError, type Details } from '../core/errors.ts';
import type { EventName } from '../core/events.ts';
import type { LogLevel } from '../core/ports.ts';
import { searchPauseTicks } from '../core/scale-up.ts';
import { orderEndpoints, planStallLimitTicks } from '../core/stall.ts';
import type {
  Endpoint,
  SessionCounters,
  SessionEnd,
  SessionState,
  TlsMaterial,
  TunnelState,
  UpstreamFacts,
  WorkerToAgent,
} from '../core/worker-protocol.ts';
import { bindUpstream, ProxyIdentities } from './bind.ts';
import type { Budget, BudgetShare } from './budget.ts';
import { createTunnelContext, dialUpstream, renderEndpoint, type Upstream } from './dial.ts';
import type { DialTurns } from './dial-turns.ts';
import type { SlabPool } from './gather.ts';
import { Local, type LocalHandle, resetLocal } from './local.ts';
import { searchConnections } from './scale-up.ts';
import { Session } from './session.ts';

/** A probed connection that no session has taken by then is given up. */
const warmMs = 60_000;

/** Far more than a round trip; a mount target that does not know the call and says nothing costs this once. */
const shortestBindMs = 2_000;
const longestBindMs = 10_000;
/** How long not to bind after a mount target did not know how to; doubles at each further time. */
const bindPauseTicks = 300;
const mostBindPauses = 8;

/** Where a handshake took seconds, on a machine that is busy or a mount target that is, an answer may take a few more. */
function planBindMs({ handshakeMs }: Upstream): number {
  return Math.round(Math.min(Math.max(shortestBindMs, 4 * handshakeMs), longestBindMs));
}

/** Connections that one session may use together. */
interface Link {
  readonly upstreams: readonly Upstream[];
  readonly binding: Binding | null;
}

/** Under which name the mount target knows a session, and where it is served; partition null = it did not say. */
interface Binding {
  readonly identity: ProxyIdentity;
  readonly partition: string | null;
}

/** What all tunnels of a worker share. */
export interface TunnelHost {
  budget: Budget;
  unacknowledgedBytes(socket: Socket): number | null;
  slabs: SlabPool;
  dialTurns: DialTurns;
  random: () => number;
  /** A mount target that owes something is silent for at most this many ticks. */
  stallLimitTicks: number;
  /** Most connections for one session; 1 = never bind. */
  maxConnections: number;
  nowTick(): number;
  /** Bytes are about to move, or a session has ended. */
  stir(): void;
  report(message: WorkerToAgent): void;
  log(level: LogLevel, event: EventName, fields: Details): void;
  /** A session is gone. */
  sessionGone(): void;
}

/** One mount's way to its mount target: TLS material, sessions, and what is kept warm for the next one. */
export class Tunnel {
  readonly id: string;
  readonly #host: TunnelHost;
  readonly #probing = new Set<AbortController>();
  readonly #sessions = new Set<Session>();
  /** Connections that have arrived, of which the agent still has a copy. */
  readonly #taken = new Map<number, LocalHandle>();
  /** Of the sessions that are gone. */
  readonly #past: SessionCounters = { bytesUp: 0, bytesDown: 0 };
  #serverName = '';
  #secureContext: SecureContext | AgentError;
  #dialTimeoutMs = 0;
  #endpoints: readonly Endpoint[] = [];
  /** Endpoints that went silent, until all have. */
  readonly #silent = new Set<string>();
  /** Sessions that stalled since a mount target last answered one. */
  #stallsInARow = 0;
  #retiring = false;
  readonly #budget: BudgetShare;
  readonly #identities = new ProxyIdentities();
  #bindForm: BindForm = 'current';
  /** Mount targets that did not know how to bind, in a row. */
  #bindFailures = 0;
  #bindFromTick = 0;
  #searchFromTick = 0;
  /** As the last bind reply said. */
  #scaleSettings: ScaleSettings | null = null;
  /** What `takeChanges` saw last. */
  #takenMarks = { sessions: -1, connections: 0, carriedBytes: 0, wasOwed: false };
  #warm: { link: Link; expiry: NodeJS.Timeout } | null = null;

  constructor(id: string, host: TunnelHost) {
    this.id = id;
    this.#host = host;
    this.#budget = host.budget.openShare();
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

  get state(): TunnelState {
    const open = [...this.#sessions].map((session) => session.state);
    const sum = (key: keyof SessionCounters) =>
      open.reduce((total, session) => total + session[key], this.#past[key]);
    return {
      tunnelId: this.id,
      sessions: this.openSessions,
      bytesUp: sum('bytesUp'),
      bytesDown: sum('bytesDown'),
      open,
    };
  }

  /** The state, unless it is what was taken last; then nothing is made that would have to be collected. */
  takeChanges(): TunnelState | null {
    let carriedBytes = this.#past.bytesUp + this.#past.bytesDown;
    let connections = 0;
    let isOwed = false;
    for (const session of this.#sessions) {
      carriedBytes += session.carriedBytes;
      connections += session.connections;
      // Whoever waits for an answer waits longer each time.
      isOwed ||= session.isOwed;
    }
    const taken = this.#takenMarks;
    const isSame =
      !isOwed &&
      !taken.wasOwed &&
      taken.sessions === this.openSessions &&
      taken.connections === connections &&
      taken.carriedBytes === carriedBytes;
    if (isSame) return null;
    this.#takenMarks = { sessions: this.openSessions, connections, carriedBytes, wasOwed: isOwed };
    return this.state;
  }

  /** Nothing moves, nobody owes an answer, and nothing is about to happen by itself. */
  get isResting(): boolean {
    if (this.#taken.size > 0 || this.#probing.size > 0) return false;
    for (const session of this.#sessions) if (!session.isResting) return false;
    return true;
  }

  tick(): void {
    const limitTicks = planStallLimitTicks(this.#host.stallLimitTicks, this.#stallsInARow);
    for (const session of this.#sessions) session.tick(limitTicks);
  }

  /** Ends every session when nothing of it is under way. */
  retire(): void {
    this.#retiring = true;
    this.cool();
    for (const session of this.#sessions) session.leave('retired');
  }

  /** After `retire`: sessions that are never quiet take no further requests. */
  drain(): void {
    for (const session of this.#sessions) session.drain();
  }

  /** Dials now, and keeps the connection for the first session. Reports `probe.done` or `probe.failed`. */
  async probe(requestId: number): Promise<void> {
    const aborting = new AbortController();
    this.#probing.add(aborting);
    try {
      const link = await this.#open(aborting.signal, () =>
        this.#host.report({ kind: 'probe.connected', tunnelId: this.id, requestId }),
      );
      this.#keepWarm(link);
      const upstream = link.upstreams[0]!.facts;
      this.#host.report({ kind: 'probe.done', tunnelId: this.id, requestId, upstream });
    } catch (thrown) {
      const error = asAgentError(thrown).toMessage();
      this.#host.report({ kind: 'probe.failed', tunnelId: this.id, requestId, error });
    } finally {
      this.#probing.delete(aborting);
    }
  }

  /** Confirms that a local connection has arrived; nothing is read from it yet. */
  takeSession(sessionId: number, local: LocalHandle): void {
    this.#taken.set(sessionId, local);
    this.#host.report({ kind: 'session.taken', tunnelId: this.id, sessionId });
  }

  /** Nobody is left who could take these connections back: they are ours. */
  startTakenSessions(): void {
    for (const sessionId of [...this.#taken.keys()]) this.startSession(sessionId);
  }

  /** Serves one local stream until it ends. */
  startSession(sessionId: number): void {
    const handle = this.#taken.get(sessionId);
    if (handle === undefined) return;
    const local = new Local(handle);
    this.#taken.delete(sessionId);
    this.#log('info', 'session.accepted', { session: sessionId });
    let binding: Binding | null = null;
    const session = new Session(sessionId, local, {
      budget: this.#budget,
      unacknowledgedBytes: this.#host.unacknowledgedBytes,
      slabs: this.#host.slabs,
      random: this.#host.random,
      nowTick: this.#host.nowTick,
      stir: this.#host.stir,
      connect: async (signal) => {
        const link = await this.#connect(signal);
        if (signal.aborted) this.#discard(link);
        else binding = link.binding;
        return link.upstreams;
      },
      scaling: () =>
        binding === null
          ? null
          : {
              settings: this.#scaleSettings,
              limit: this.#host.maxConnections,
              searchFromTick: this.#searchFromTick,
            },
      widen: async (signal) => {
        const upstreams = await this.#search(sessionId, binding!, signal);
        if (upstreams === null) session.destroy('moved');
        return upstreams ?? [];
      },
      widened: (connections) => this.#log('info', 'session.widened', { session: sessionId, connections }),
      wantEndpoints: () => this.#host.report({ kind: 'endpoints.wanted', tunnelId: this.id }),
      dialFailed: (error, again) => this.#dialFailed(sessionId, error, again),
      connected: (upstream) =>
        this.#host.report({ kind: 'session.connected', tunnelId: this.id, sessionId, upstream }),
      answered: () => {
        this.#stallsInARow = 0;
      },
      stalled: (upstream, state) => this.#sessionStalled(upstream, state),
      unparsed: () => this.#log('warn', 'session.unparsed', { session: sessionId }),
      closed: (cause, counters, error) => {
        this.#release(binding);
        this.#sessionClosed(session, sessionId, cause, counters, error);
      },
    });
    this.#sessions.add(session);
    if (this.#retiring) session.leave('retired');
  }

  /** Destroys everything, for this reason. */
  end(cause: SessionEnd): void {
    for (const aborting of this.#probing) aborting.abort();
    this.cool();
    for (const handle of this.#taken.values()) resetLocal(handle);
    this.#taken.clear();
    for (const session of this.#sessions) session.destroy(cause);
  }

  /** Gives up what is kept warm, if anything is. */
  cool(): void {
    const link = this.#takeWarm();
    if (link !== null) this.#discard(link);
  }

  async #connect(signal: AbortSignal): Promise<Link> {
    const warm = this.#takeWarm();
    if (warm !== null) return warm;
    // The first time another address may do better at once.
    if (this.#stallsInARow > 1)
      await wait(planDelayMs(this.#stallsInARow - 1, this.#host.random()), undefined, { signal });
    const [first] = this.#orderedEndpoints;
    return this.#host.dialTurns.run(first, this.id, signal, (connected) => this.#open(signal, connected));
  }

  /** One connection: bound, or unbound when the mount target does not know how to bind or anything about it is unusual. */
  async #open(signal: AbortSignal, connected = (): void => {}): Promise<Link> {
    const upstream = await this.#dial(signal, connected);
    if (this.#host.maxConnections <= 1 || this.#host.nowTick() < this.#bindFromTick)
      return { upstreams: [upstream], binding: null };
    const identity = this.#identities.take();
    const reply = await this.#bind(upstream, identity);
    this.#log('info', 'upstream.bind', {
      endpoint: renderEndpoint(upstream.facts),
      answer: reply.kind,
      why: reply.kind === 'surprise' ? reply.why : null,
      maxConnections: 'settings' in reply ? reply.settings.maxConnections : null,
    });
    if (signal.aborted) {
      this.#discard({ upstreams: [upstream], binding: { identity, partition: null } });
      throw new AgentError('interrupted', 'the connection is not wanted any more');
    }
    if ('settings' in reply) {
      this.#bindFailures = 0;
      const partition = reply.kind === 'ready' ? reply.partition : null;
      if (reply.kind === 'refused') this.#searchFromTick = this.#host.nowTick() + searchPauseTicks;
      return { upstreams: [upstream], binding: { identity, partition } };
    }
    this.#identities.giveBack(identity);
    this.#bindFromTick =
      this.#host.nowTick() + bindPauseTicks * 2 ** Math.min(this.#bindFailures, mostBindPauses);
    this.#bindFailures += 1;
    if (reply.kind === 'unsupported') return { upstreams: [upstream], binding: null };
    upstream.socket.destroy();
    return { upstreams: [await this.#dial(signal)], binding: null };
  }

  /** Binds in the form that was understood last, or else in the other one. */
  async #bind(upstream: Upstream, identity: ProxyIdentity): Promise<BindReply> {
    for (const form of [this.#bindForm, this.#bindForm === 'current' ? 'former' : 'current'] as const) {
      const reply = await bindUpstream(upstream, form, identity, planBindMs(upstream));
      if ('settings' in reply) {
        this.#bindForm = form;
        this.#scaleSettings = reply.settings;
      }
      if (reply.kind !== 'unsupported') return reply;
    }
    return { kind: 'unsupported' };
  }

  /** More connections for a session; null when they are of another partition and wait for the next session. */
  async #search(
    sessionId: number,
    binding: Binding,
    signal: AbortSignal,
  ): Promise<readonly Upstream[] | null> {
    this.#log('info', 'session.widening', { session: sessionId });
    const result = await searchConnections({
      open: async (searching) => {
        const upstream = await this.#dial(searching);
        const reply = await bindUpstream(upstream, this.#bindForm, binding.identity, planBindMs(upstream));
        if ('settings' in reply) this.#scaleSettings = reply.settings;
        return { upstream, reply };
      },
      partition: binding.partition,
      settings: this.#scaleSettings!,
      limit: this.#host.maxConnections,
      random: this.#host.random,
      signal,
    });
    if (result.kind === 'same') return result.upstreams;
    if (result.kind === 'other') {
      this.#keepWarm({
        upstreams: result.upstreams,
        binding: { identity: binding.identity, partition: result.partition },
      });
      return null;
    }
    this.#searchFromTick = this.#host.nowTick() + searchPauseTicks;
    this.#log('info', 'session.not-widened', { session: sessionId, why: result.why });
    return [];
  }

  #discard(link: Link): void {
    for (const { socket } of link.upstreams) socket.destroy();
    this.#release(link.binding);
  }

  #release(binding: Binding | null): void {
    if (binding === null || this.#warm?.link.binding?.identity === binding.identity) return;
    this.#identities.giveBack(binding.identity);
  }

  async #dial(signal: AbortSignal, connected = (): void => {}): Promise<Upstream> {
    if (this.#secureContext instanceof AgentError) throw this.#secureContext;
    const upstream = await dialUpstream({
      endpoints: this.#orderedEndpoints,
      serverName: this.#serverName,
      secureContext: this.#secureContext,
      timeoutMs: this.#dialTimeoutMs,
      signal,
      connected,
    });
    this.#logConnected(upstream.facts);
    return upstream;
  }

  get #orderedEndpoints(): readonly Endpoint[] {
    return orderEndpoints(this.#endpoints, this.#wentSilent);
  }

  #keepWarm(link: Link): void {
    this.cool();
    this.#warm = { link, expiry: setTimeout(() => this.cool(), warmMs) };
    const forget = (): void => {
      if (this.#warm?.link === link) this.cool();
    };
    for (const upstream of link.upstreams) {
      // A server that speaks first is none of ours.
      upstream.readInto(() => {
        forget();
        return false;
      });
      upstream.socket.on('end', forget).on('error', forget).on('close', forget);
    }
  }

  #takeWarm(): Link | null {
    if (this.#warm === null) return null;
    const { link, expiry } = this.#warm;
    clearTimeout(expiry);
    this.#warm = null;
    return link;
  }

  readonly #wentSilent = (endpoint: Endpoint): boolean => this.#silent.has(renderEndpoint(endpoint));

  #sessionStalled(upstream: UpstreamFacts, state: SessionState): void {
    this.#stallsInARow += 1;
    this.#silent.add(renderEndpoint(upstream));
    if (this.#endpoints.every(this.#wentSilent)) {
      this.#silent.clear();
      this.#silent.add(renderEndpoint(upstream));
    }
    this.cool();
    this.#log('warn', 'session.stalled', {
      session: state.sessionId,
      endpoint: renderEndpoint(upstream),
      inFlight: state.inFlight,
      oldestMs: state.oldestMs,
      stallsInARow: this.#stallsInARow,
    });
  }

  #sessionClosed(
    session: Session,
    sessionId: number,
    cause: SessionEnd,
    counters: SessionCounters,
    error: string | null,
  ): void {
    this.#sessions.delete(session);
    this.#host.stir();
    this.#past.bytesUp += counters.bytesUp;
    this.#past.bytesDown += counters.bytesDown;
    const unusual = cause === 'upstream-reset' || cause === 'upstream-unreachable' || cause === 'stalled';
    this.#log(unusual ? 'warn' : 'info', 'session.closed', { session: sessionId, cause, ...counters, error });
    this.#host.report({ kind: 'session.closed', tunnelId: this.id, sessionId, cause, ...counters });
    this.#host.sessionGone();
  }

  #dialFailed(sessionId: number, error: AgentError, again: boolean): void {
    const { code, message } = error;
    this.#log(again ? 'debug' : 'warn', 'upstream.failed', { session: sessionId, code, message });
    if (again) return;
    this.#host.report({ kind: 'session.failed', tunnelId: this.id, sessionId, error: error.toMessage() });
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

  #log(level: LogLevel, event: EventName, fields: Details): void {
    this.#host.log(level, event, { tunnel: this.id, ...fields });
  }
}
