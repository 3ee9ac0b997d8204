/**
 * The tunnel worker's entry point: carries bytes between local sockets and mount targets, as the agent says.
 *
 * Started by `child_process.fork` with serialization `advanced`; messages are those of core/worker-protocol.
 * Knows sockets and TLS only: it reads no file but the kernel's table of TCP connections, no environment, no argument.
 */
import { AgentError, asAgentError, type Details } from '../core/errors.ts';
import type { EventName } from '../core/events.ts';
import type { LogLevel } from '../core/ports.ts';
import { tickMs } from '../core/stall.ts';
import { version } from '../core/version.ts';
import type { AgentToWorker, TunnelState, WorkerToAgent } from '../core/worker-protocol.ts';
import { Budget } from './budget.ts';
import { DialTurns } from './dial-turns.ts';
import { SlabPool } from './gather.ts';
import { type LocalHandle, resetLocal } from './local.ts';
import { NextAgent } from './next-agent.ts';
import { SendQueues } from './send-queues.ts';
import { Tunnel, type TunnelHost } from './tunnel.ts';

type Start = Extract<AgentToWorker, { kind: 'start' }>;
/** How long a worker waits for its last words to reach the agent. */
const lastWordsMs = 500;

const tunnels = new Map<string, Tunnel>();
let host: TunnelHost | null = null;
let callbackSocket: string | null = null;
let nextAgent: NextAgent | null = null;
let retiring = false;
let leaving = false;
let ticks = 0;
/** Null while nothing moves and nobody owes an answer: then there is nothing to look at every second. */
let ticking: NodeJS.Timeout | null = null;
let restingSinceMonoMs = 0;

if (process.send === undefined) {
  process.stderr.write('efs-agent worker: is started by the agent, not by hand\n');
  process.exit(2);
}
ignoreSignals();
process.stdout.on('error', () => {});
process.stderr.on('error', () => {});
process.on('message', (message: AgentToWorker, handle: unknown) =>
  receive(message, handle as LocalHandle | undefined),
);
process.on('disconnect', () => {
  stir();
  for (const tunnel of tunnels.values()) {
    tunnel.cool();
    tunnel.startTakenSessions();
  }
  exitWhenIdle();
  const serving = host;
  if (callbackSocket === null || serving === null) return;
  nextAgent = new NextAgent(callbackSocket, {
    random: serving.random,
    hello: () => ({ kind: 'hello', pid: process.pid, version, tunnels: tunnelStates() }),
    receive: (message) => serve(message, undefined, serving),
  });
});
// Whatever threw may have left a session half done: a new worker and reconnecting kernels are safer than going on.
process.on('uncaughtException', (thrown) => die('worker.failed', asAgentError(thrown)));

function receive(message: AgentToWorker, local: LocalHandle | undefined): void {
  if (message.kind === 'start') {
    start(message);
  } else if (host === null) {
    die('worker.failed', new AgentError('agent.protocol', `the agent sent ${message.kind} before start`));
  } else {
    serve(message, local, host);
  }
}

function start(message: Start): void {
  if (message.dropTo !== null) {
    try {
      dropPrivileges(message.dropTo);
    } catch (thrown) {
      die('worker.privileges-kept', asAgentError(thrown));
      return;
    }
  }
  callbackSocket = message.callbackSocket;
  const queues = new SendQueues(() => ticks);
  host = {
    budget: new Budget(message.budgetBytes),
    unacknowledgedBytes: (socket) => queues.unacknowledgedBytes(socket),
    slabs: new SlabPool(),
    dialTurns: new DialTurns(),
    random: Math.random,
    stallLimitTicks: Math.ceil(message.stallTimeoutMs / tickMs),
    maxConnections: message.maxConnections,
    nowTick: () => ticks,
    stir,
    report,
    log,
    sessionGone: exitWhenIdle,
  };
  startTicking();
  report({ kind: 'ready', pid: process.pid });
}

function startTicking(): void {
  ticking = setInterval(() => {
    ticks += 1;
    for (const tunnel of tunnels.values()) tunnel.tick();
  }, tickMs).unref();
}

/** Something moves again, or a session has ended. */
function stir(): void {
  if (ticking !== null) return;
  ticks += Math.floor((performance.now() - restingSinceMonoMs) / tickMs);
  startTicking();
  if (process.connected) report({ kind: 'stirred' });
}

function rest(): void {
  if (ticking === null) return;
  clearInterval(ticking);
  ticking = null;
  restingSinceMonoMs = performance.now();
}

function sayPong(sequence: number, host: TunnelHost): void {
  // While it rests nothing changes.
  const changed = ticking === null ? [] : takeChanges();
  const isResting = ticking === null;
  report({ kind: 'pong', sequence, tunnels: changed, bufferedBytes: host.budget.heldBytes, isResting });
}

/** The tunnels of which something has changed since the last pong; rests when there is none and nothing is under way. */
function takeChanges(): TunnelState[] {
  const changed: TunnelState[] = [];
  let isQuiet = true;
  for (const tunnel of tunnels.values()) {
    const state = tunnel.takeChanges();
    if (state !== null) changed.push(state);
    isQuiet &&= state === null && tunnel.isResting;
  }
  if (isQuiet) rest();
  return changed;
}

function serve(
  message: Exclude<AgentToWorker, Start>,
  local: LocalHandle | undefined,
  host: TunnelHost,
): void {
  if (message.kind === 'ping') {
    sayPong(message.sequence, host);
    return;
  }
  stir();
  if (message.kind === 'retire') {
    retire(message.deadlineMs);
    return;
  }
  const { tunnelId } = message;
  let tunnel = tunnels.get(tunnelId);
  switch (message.kind) {
    case 'tunnel.open':
      if (tunnel === undefined) {
        tunnel = new Tunnel(tunnelId, host);
        tunnels.set(tunnelId, tunnel);
      }
      tunnel.replaceMaterial(message.tls, message.dialTimeoutMs);
      return;
    case 'tunnel.probe':
      if (tunnel === undefined) {
        const error = new AgentError(
          'agent.protocol',
          `no tunnel ${tunnelId} is open in this worker`,
        ).toMessage();
        report({ kind: 'probe.failed', tunnelId, requestId: message.requestId, error });
        return;
      }
      tunnel.endpoints = message.endpoints;
      void tunnel.probe(message.requestId);
      return;
    case 'tunnel.endpoints':
      if (tunnel !== undefined) tunnel.endpoints = message.endpoints;
      return;
    case 'tunnel.close':
      tunnels.delete(tunnelId);
      tunnel?.end('tunnel-closed');
      report({ kind: 'tunnel.closed', tunnelId });
      return;
    case 'session.open': {
      const { sessionId } = message;
      // Nothing comes with the message when the client has gone in the meantime.
      if (tunnel === undefined || retiring || local === undefined || local === null) {
        const cause = tunnel === undefined ? 'tunnel-closed' : retiring ? 'retired' : 'local-reset';
        if (local) resetLocal(local);
        report({ kind: 'session.closed', tunnelId, sessionId, cause, bytesUp: 0, bytesDown: 0 });
        return;
      }
      tunnel.endpoints = message.endpoints;
      tunnel.takeSession(sessionId, local);
      return;
    }
    case 'session.go':
      tunnel?.startSession(message.sessionId);
      return;
  }
}

/**
 * Gives up root for good: supplementary groups first, the user last, as each step needs the right to make it.
 *
 * Errors: `internal` when a step fails, or when root could be had back.
 */
function dropPrivileges({ uid, gid }: { uid: number; gid: number }): void {
  process.setgroups!([]);
  process.setgid!(gid);
  process.setuid!(uid);
  const groups = process.getgroups!().filter((group) => group !== gid);
  const held =
    process.getuid!() === uid &&
    process.geteuid!() === uid &&
    process.getgid!() === gid &&
    process.getegid!() === gid &&
    groups.length === 0;
  if (!held || (uid !== 0 && canBecomeRoot())) {
    throw new AgentError(
      'internal',
      `the tunnel worker could not give up root for uid ${uid} and gid ${gid}`,
    );
  }
}

function canBecomeRoot(): boolean {
  try {
    process.setuid!(0);
    return true;
  } catch {
    return false;
  }
}

function ignoreSignals(): void {
  for (const signal of ['SIGHUP', 'SIGPIPE'] as const) process.on(signal, () => {});
  // Ctrl-C in a terminal reaches the whole group; the agent decides what becomes of its workers.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => {
    for (const tunnel of tunnels.values()) tunnel.end('tunnel-closed');
    process.exit(0);
  });
}

function tunnelStates(): TunnelState[] {
  return [...tunnels.values()].map((tunnel) => tunnel.state);
}

function retire(deadlineMs: number): void {
  if (!retiring) log('info', 'worker.retiring', { deadlineMs });
  retiring = true;
  setTimeout(() => {
    for (const tunnel of tunnels.values()) tunnel.drain();
  }, deadlineMs / 2);
  setTimeout(() => {
    for (const tunnel of tunnels.values()) tunnel.end('retired');
  }, deadlineMs);
  for (const tunnel of tunnels.values()) tunnel.retire();
  exitWhenIdle();
}

/** Nobody will give us another session: the last one that ends takes the worker along. */
function exitWhenIdle(): void {
  if (process.connected && !retiring) return;
  for (const tunnel of tunnels.values()) if (tunnel.openSessions > 0) return;
  if (leaving) return;
  leaving = true;
  setTimeout(() => process.exit(0), lastWordsMs);
  // Whoever brought us here may have something to say yet.
  setImmediate(() => {
    if (retiring) report({ kind: 'retired', pid: process.pid }, () => process.exit(0));
    else process.exit(0);
  });
}

function report(message: WorkerToAgent, sent: () => void = () => {}): void {
  // The callback also takes the error of a channel that closes meanwhile: 'disconnect' deals with that.
  if (process.connected) process.send!(message, undefined, undefined, sent);
  else if (nextAgent === null) sent();
  else nextAgent.send(message, sent);
}

function log(level: LogLevel, event: EventName, fields: Details): void {
  if (process.connected || nextAgent?.connected === true) report({ kind: 'log', level, event, fields });
  else process.stderr.write(renderLine(level, event, fields));
}

/** Says why, then ends the process with 1; the agent starts another. */
function die(event: EventName, error: AgentError): void {
  process.exitCode = 1;
  const fields = { code: error.code, message: error.message };
  if (!process.connected) {
    process.stderr.write(renderLine('error', event, fields));
    process.exit(1);
  }
  setTimeout(() => process.exit(1), lastWordsMs);
  report({ kind: 'log', level: 'error', event, fields }, () => process.exit(1));
}

function renderLine(level: LogLevel, event: EventName, fields: Details): string {
  return `${JSON.stringify({ time: new Date().toISOString(), level, event, pid: process.pid, ...fields })}\n`;
}
