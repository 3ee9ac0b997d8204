import type { Server, Socket } from 'node:net';
import { Allowance } from '../core/allowance.ts';
import { createLineSplitter, maxLineBytes } from '../core/control-protocol.ts';
import { AgentError } from '../core/errors.ts';
import type { Clock, Log } from '../core/ports.ts';
import { parseWorkerMessage } from '../core/worker-message.ts';
import type { AgentToOrphan, WorkerToAgent } from '../core/worker-protocol.ts';

/**
 * Workers of an earlier agent that still carry connections: they call on this agent's worker socket.
 *
 * Their sessions count for their tunnels, and as soon as our own worker is there they are asked to retire: each
 * session ends at a moment when nothing of it is under way, and the kernel comes back to the listener.
 */
export interface Orphans {
  /** Our own worker is ready to take the connections. */
  retireAll(): void;
}

export interface OrphanPorts {
  clock: Clock;
  log: Log;
  server: Server;
  /** Whether our own worker is ready. */
  mayRetire(): boolean;
  /** How many sessions of a tunnel an orphan has, whenever that changes; false when there is no such tunnel. */
  onSessions(tunnelId: string, workerPid: number, sessions: number): boolean;
}

/** Sessions that are never quiet end after this long all the same, in milliseconds. */
const retireDeadlineMs = 30_000;

/** Each restart of the agent leaves at most one more behind, and they retire within the deadline. */
const maxOrphans = 256;

/** What all of them together may say in a second; a message costs `leastBytes` at least. One that says more is hung up on. */
const bytesPerSecond = 2 ** 20;
const leastBytes = 512;

interface Orphan {
  /** As it says; null until it has said so. */
  pid: number | null;
  /** Of tunnels that are ours. */
  sessions: Map<string, number>;
  send(message: AgentToOrphan): void;
}

export function createOrphans(ports: OrphanPorts): Orphans {
  const { clock, log } = ports;
  const allowance = new Allowance(bytesPerSecond, clock.monoMs());
  const orphans = new Set<Orphan>();

  function receive(orphan: Orphan, message: WorkerToAgent): void {
    switch (message.kind) {
      case 'hello':
        if (orphan.pid !== null) throw new AgentError('agent.protocol', 'it said hello twice');
        orphan.pid = message.pid;
        for (const { tunnelId, sessions } of message.tunnels) setSessions(orphan, tunnelId, sessions);
        log('info', 'worker.found', { pid: orphan.pid, tunnels: message.tunnels.length });
        if (ports.mayRetire()) retire(orphan);
        break;
      case 'session.closed':
        setSessions(orphan, message.tunnelId, (orphan.sessions.get(message.tunnelId) ?? 1) - 1);
        break;
      case 'log':
        log(message.level, message.event, message.fields);
        break;
      case 'retired':
        log('info', 'worker.retired', { pid: orphan.pid });
        break;
    }
  }

  function setSessions(orphan: Orphan, tunnelId: string, sessions: number): void {
    if (orphan.pid === null) throw new AgentError('agent.protocol', 'it did not say hello first');
    if (ports.onSessions(tunnelId, orphan.pid, sessions)) orphan.sessions.set(tunnelId, sessions);
    else if (sessions > 0) orphan.send({ kind: 'tunnel.close', tunnelId });
  }

  function retire(orphan: Orphan): void {
    orphan.send({ kind: 'retire', deadlineMs: retireDeadlineMs });
  }

  ports.server.maxConnections = maxOrphans;
  ports.server.on('connection', (socket: Socket) => {
    const splitLines = createLineSplitter();
    const orphan: Orphan = {
      pid: null,
      sessions: new Map(),
      send(message) {
        if (socket.writableLength > maxLineBytes) hangUp('it does not read what it is told');
        else socket.write(`${JSON.stringify(message)}\n`);
      },
    };
    const hangUp = (why: string) => {
      log('warn', 'worker.misspoke', { pid: orphan.pid, error: why });
      socket.destroy();
    };
    orphans.add(orphan);
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const line of splitLines(chunk)) {
          if (socket.destroyed) return;
          if (!allowance.spend(Math.max(line.length, leastBytes), clock.monoMs()))
            throw new AgentError('agent.protocol', 'it says too much');
          const message = parseWorkerMessage(JSON.parse(line));
          if (message !== null) receive(orphan, message);
        }
      } catch (error) {
        hangUp((error as Error).message);
      }
    });
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      orphans.delete(orphan);
      const { pid, sessions } = orphan;
      if (pid !== null) for (const tunnelId of sessions.keys()) ports.onSessions(tunnelId, pid, 0);
    });
  });

  return {
    retireAll() {
      for (const orphan of orphans) retire(orphan);
    },
  };
}
