import type { Socket } from 'node:net';
import { AgentError, fromErrorMessage } from '../core/errors.ts';
import { decideHandover, type HandoverEvent, nothingHanded } from '../core/handover.ts';
import type { Child, Clock, Log } from '../core/ports.ts';
import {
  decideWorker,
  initialWorkerState,
  planTickMs,
  type WorkerEvent,
  type WorkerState,
} from '../core/supervision.ts';
import { createTurns, type Turn } from '../core/turns.ts';
import type {
  AgentToWorker,
  Endpoint,
  TlsMaterial,
  TunnelState,
  UpstreamFacts,
  WorkerToAgent,
} from '../core/worker-protocol.ts';

/**
 * How many mount targets a worker greets at once: a TLS handshake is all computing, so that thirty at once are all as slow
 * as the last one, and while a worker computes for them it does not answer for its pulse. An address that has not even
 * accepted the connection after a second is waited for, which costs nothing; from there on it is computing.
 */
const greetedAtOnce = 4;
const greetingMs = 1_000;
const handshakeMs = 5_000;

/** A handshake during which a worker ends is made by the next one; that two of them end is no accident. */
const mostTries = 2;

export type WorkerChild = Child<AgentToWorker, WorkerToAgent>;

/** What the tunnels hear from the worker. */
export interface WorkerListener {
  onMessage(message: WorkerToAgent): void;
  /** The tunnels whose traffic has changed. */
  onTraffic(reports: readonly TunnelState[]): void;
  /** The worker is gone, with every session it had taken. */
  onLost(): void;
  /** The worker is gone before it took this socket: it is whole and waits for the next one. Comes after `onLost`. */
  onReturned(tunnelId: string, socket: Socket): void;
  /** A worker is there and knows all tunnels: waiting sockets may be handed over. */
  onReady(): void;
}

/** The tunnel worker, whichever process it is at the moment: started on demand, replaced when it dies or hangs. */
export interface Workers {
  /** Makes the tunnel known to the worker, and to each later one until `closeTunnel`; again to replace its material. */
  openTunnel(tunnelId: string, tls: TlsMaterial, dialTimeoutMs: number): void;
  /** Resolves when the worker has destroyed the tunnel's sessions, or is gone itself. */
  closeTunnel(tunnelId: string): Promise<void>;
  /** One TLS handshake with the mount target, kept warm. Errors: `target.*`, `tls.*`, `tunnel.worker-lost`. */
  probe(tunnelId: string, endpoints: Endpoint[]): Promise<UpstreamFacts>;
  /** False when no worker is ready: the caller keeps the socket and waits for `onReady`. */
  handOver(tunnelId: string, sessionId: number, socket: Socket, endpoints: Endpoint[]): boolean;
  /** Resolves when no socket is on its way to a worker. */
  settle(): Promise<void>;
  updateEndpoints(tunnelId: string, endpoints: Endpoint[]): void;
  status(): { pid: number | null; state: WorkerState['kind']; restarts: number; bufferedBytes: number };
  close(): void;
}

export interface WorkerPorts {
  clock: Clock;
  log: Log;
  random: () => number;
  startWorker(): WorkerChild;
  /** How long a process has been ready to run and had no processor, in milliseconds; null when nobody knows. */
  readWaitedMs(pid: number): number | null;
  /** First message to each worker. */
  startMessage(): Extract<AgentToWorker, { kind: 'start' }>;
}

/** A handshake that somebody waits for; it is sent to a worker when its turn has come. */
interface Probe {
  tunnelId: string;
  endpoints: Endpoint[];
  resolve(facts: UpstreamFacts): void;
  reject(error: AgentError): void;
  /** Workers that it was sent to. */
  tries: number;
  /** Whether the worker of now has it. */
  sent: boolean;
  /** Null while no worker is there. */
  turn: Turn | null;
}

export function createWorkers(ports: WorkerPorts, listener: WorkerListener): Workers {
  const { clock, log } = ports;
  const tunnels = new Map<string, Extract<AgentToWorker, { kind: 'tunnel.open' }>>();
  const probes = new Map<number, Probe>();
  const turns = createTurns(clock, greetedAtOnce, greetingMs);
  const closing = new Map<string, () => void>();
  /** Sockets on their way to the worker, by session. */
  const handing = new Map<number, { tunnelId: string; socket: Socket }>();
  let handover = nothingHanded;
  let tellSettled: (() => void)[] = [];
  let state: WorkerState = initialWorkerState;
  let child: WorkerChild | null = null;
  let restarts = 0;
  let bufferedBytes = 0;
  let nextRequestId = 1;
  let timer: { cancel(): void } | null = null;
  /** What was seen at the last tick. */
  let seen: { pid: number; monoMs: number; waitedMs: number } | null = null;

  function step(event: WorkerEvent): void {
    const [next, actions] = decideWorker(state, event, clock.monoMs(), ports.random());
    state = next;
    for (const action of actions) {
      switch (action.kind) {
        case 'start':
          start();
          break;
        case 'ping':
          child?.send({ kind: 'ping', sequence: action.sequence });
          break;
        case 'kill':
          log('error', 'worker.hung', { pid: child?.pid ?? null });
          child?.kill('SIGKILL');
          break;
        case 'dismiss':
          log('info', 'worker.dismissed', { pid: child?.pid ?? null });
          dismiss();
          break;
      }
    }
  }

  /** The next tick moves only when the event changes its distance: no worker can put it off for ever. */
  function stepAndPlan(event: WorkerEvent): void {
    const wanted = tunnels.size > 0;
    const nowMonoMs = clock.monoMs();
    const beforeMs = planTickMs(state, wanted, nowMonoMs);
    step(event);
    if (planTickMs(state, wanted, nowMonoMs) !== beforeMs) scheduleTick();
  }

  function tick(): void {
    step({ kind: 'tick', wanted: tunnels.size > 0, couldRun: measureCouldRun() });
    scheduleTick();
  }

  /**
   * The part of the time since the last tick in which the worker did not have to wait for a processor. Nobody looks while a
   * worker rests and answers: to read a file costs an idle machine more than the rest of a tick.
   */
  function measureCouldRun(): number {
    const before = seen;
    const isAtEase = state.kind === 'up' && state.isResting && state.unanswered === 0;
    const waitedMs = child === null || isAtEase ? null : ports.readWaitedMs(child.pid);
    seen = child === null || waitedMs === null ? null : { pid: child.pid, monoMs: clock.monoMs(), waitedMs };
    if (before === null || seen === null || before.pid !== seen.pid) return 1;
    const passedMs = seen.monoMs - before.monoMs;
    return passedMs <= 0 ? 1 : Math.max(0, 1 - (seen.waitedMs - before.waitedMs) / passedMs);
  }

  /** Ticks only while there is something to watch or to start: an idle agent sleeps. */
  function scheduleTick(): void {
    timer?.cancel();
    timer = null;
    const wanted = tunnels.size > 0;
    if (wanted || child !== null) timer = clock.schedule(planTickMs(state, wanted, clock.monoMs()), tick);
  }

  function start(): void {
    const started = ports.startWorker();
    child = started;
    log('info', 'worker.started', { pid: started.pid });
    started.onMessage((message) => {
      if (child === started) receive(started.pid, message);
    });
    started.onExit((how) => {
      if (child !== started) return;
      child = null;
      restarts += 1;
      bufferedBytes = 0;
      log('error', 'worker.lost', { pid: started.pid, how });
      forget(started.pid);
      step({ kind: 'exited' });
      tick();
    });
    started.send(ports.startMessage());
  }

  function dismiss(): void {
    const dismissed = child;
    child = null;
    dismissed?.kill('SIGTERM');
  }

  function forget(worker: number): void {
    const lost = new AgentError('tunnel.worker-lost', 'the tunnel worker ended during the mount');
    // Those that wait for their turn wait for the next worker, before they are given the turn of one that is lost.
    for (const probe of probes.values()) if (!probe.sent) probe.turn?.leave();
    for (const [requestId, probe] of probes) {
      if (probe.tries >= mostTries) endProbe(requestId)?.reject(lost);
      else probe.turn?.leave();
      probe.sent = false;
    }
    for (const resolve of closing.values()) resolve();
    closing.clear();
    listener.onLost();
    stepHandover({ kind: 'worker-lost', worker });
    settleIfDone();
  }

  /** Says whether a session has ended by it. */
  function stepHandover(event: HandoverEvent): boolean {
    const [next, actions] = decideHandover(handover, event);
    handover = next;
    for (const { kind, sessionId } of actions) {
      const kept = handing.get(sessionId);
      switch (kind) {
        case 'let-go':
          kept?.socket.destroy();
          break;
        case 'go':
          if (kept !== undefined) child?.send({ kind: 'session.go', tunnelId: kept.tunnelId, sessionId });
          handing.delete(sessionId);
          break;
        case 'return':
          handing.delete(sessionId);
          if (kept !== undefined) listener.onReturned(kept.tunnelId, kept.socket);
          break;
        case 'ended':
          handing.delete(sessionId);
          break;
      }
    }
    return actions.some(({ kind }) => kind === 'ended');
  }

  function queueProbe(requestId: number, probe: Probe): void {
    const { tunnelId, endpoints } = probe;
    probe.turn = turns.take(tunnelId, () => {
      probe.sent = true;
      probe.tries += 1;
      child?.send({ kind: 'tunnel.probe', tunnelId, requestId, endpoints });
    });
  }

  function endProbe(requestId: number): Probe | undefined {
    const probe = probes.get(requestId);
    probes.delete(requestId);
    probe?.turn?.leave();
    return probe;
  }

  function settleIfDone(): void {
    if (handing.size > 0) return;
    for (const tell of tellSettled) tell();
    tellSettled = [];
  }

  function receive(worker: number, message: WorkerToAgent): void {
    stepAndPlan({ kind: 'spoke' });
    switch (message.kind) {
      case 'ready':
        step({ kind: 'ready' });
        for (const tunnel of tunnels.values()) child?.send(tunnel);
        for (const [requestId, probe] of probes) queueProbe(requestId, probe);
        listener.onReady();
        break;
      case 'probe.connected':
        probes.get(message.requestId)?.turn?.extend(handshakeMs);
        break;
      case 'probe.done':
        endProbe(message.requestId)?.resolve(message.upstream);
        break;
      case 'probe.failed':
        endProbe(message.requestId)?.reject(fromErrorMessage(message.error));
        break;
      case 'session.taken':
        stepHandover({ kind: 'taken', sessionId: message.sessionId, worker });
        settleIfDone();
        break;
      case 'session.closed': {
        const hasEnded = stepHandover({ kind: 'closed', sessionId: message.sessionId, worker });
        settleIfDone();
        if (hasEnded) listener.onMessage(message);
        break;
      }
      case 'tunnel.closed':
        closing.get(message.tunnelId)?.();
        closing.delete(message.tunnelId);
        break;
      case 'pong':
        bufferedBytes = message.bufferedBytes;
        stepAndPlan({ kind: 'pong', sequence: message.sequence, isResting: message.isResting });
        if (message.tunnels.length > 0) listener.onTraffic(message.tunnels);
        break;
      case 'stirred':
        stepAndPlan({ kind: 'stirred' });
        break;
      case 'log':
        log(message.level, message.event, message.fields);
        break;
      default:
        listener.onMessage(message);
    }
  }

  const isUp = () => child !== null && state.kind === 'up';

  return {
    openTunnel(tunnelId, tls, dialTimeoutMs) {
      const message = { kind: 'tunnel.open', tunnelId, tls, dialTimeoutMs } as const;
      tunnels.set(tunnelId, message);
      if (isUp()) child?.send(message);
      // While a worker starts its ticks are counted: thirty mounts at once are not thirty seconds.
      else if (child === null) tick();
    },
    closeTunnel(tunnelId) {
      for (const [requestId, probe] of probes) {
        if (probe.tunnelId !== tunnelId || probe.sent) continue;
        endProbe(requestId)?.reject(new AgentError('interrupted', 'the tunnel is not wanted any more'));
      }
      if (!tunnels.delete(tunnelId) || !isUp()) return Promise.resolve();
      return new Promise((resolve) => {
        closing.set(tunnelId, resolve);
        child?.send({ kind: 'tunnel.close', tunnelId });
      });
    },
    probe(tunnelId, endpoints) {
      const requestId = nextRequestId++;
      return new Promise((resolve, reject) => {
        const probe = { tunnelId, endpoints, resolve, reject, tries: 0, sent: false, turn: null };
        probes.set(requestId, probe);
        if (isUp()) queueProbe(requestId, probe);
      });
    },
    handOver(tunnelId, sessionId, socket, endpoints) {
      if (!isUp()) return false;
      handing.set(sessionId, { tunnelId, socket });
      stepHandover({ kind: 'handed', sessionId, worker: child?.pid ?? -1 });
      child?.send({ kind: 'session.open', tunnelId, sessionId, endpoints }, socket);
      return true;
    },
    settle: () =>
      new Promise((resolve) => {
        tellSettled.push(resolve);
        settleIfDone();
      }),
    updateEndpoints(tunnelId, endpoints) {
      if (isUp()) child?.send({ kind: 'tunnel.endpoints', tunnelId, endpoints });
    },
    status: () => ({ pid: child?.pid ?? null, state: state.kind, restarts, bufferedBytes }),
    close() {
      timer?.cancel();
      dismiss();
    },
  };
}
