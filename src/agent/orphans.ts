import type { Server, Socket } from 'node:net';
import { createLineSplitter } from '../core/control-protocol.ts';
import type { Log } from '../core/ports.ts';
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

interface Orphan {
  pid: number;
  sessions: Map<string, number>;
  send(message: AgentToOrphan): void;
}

export function createOrphans(ports: OrphanPorts): Orphans {
  const { log } = ports;
  const orphans = new Set<Orphan>();

  function receive(orphan: Orphan, message: WorkerToAgent): void {
    switch (message.kind) {
      case 'hello':
        orphan.pid = message.pid;
        for (const { tunnelId, sessions } of message.tunnels) setSessions(orphan, tunnelId, sessions);
        log('info', 'worker.found', { pid: orphan.pid, tunnels: orphan.sessions.size });
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
    orphan.sessions.set(tunnelId, sessions);
    const isKnown = ports.onSessions(tunnelId, orphan.pid, sessions);
    if (!isKnown && sessions > 0) orphan.send({ kind: 'tunnel.close', tunnelId });
  }

  function retire(orphan: Orphan): void {
    orphan.send({ kind: 'retire', deadlineMs: retireDeadlineMs });
  }

  ports.server.maxConnections = maxOrphans;
  ports.server.on('connection', (socket: Socket) => {
    const splitLines = createLineSplitter();
    const orphan: Orphan = {
      pid: 0,
      sessions: new Map(),
      send: (message) => void socket.write(`${JSON.stringify(message)}\n`),
    };
    orphans.add(orphan);
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const line of splitLines(chunk)) {
          const message = parseWorkerMessage(JSON.parse(line));
          if (message !== null) receive(orphan, message);
        }
      } catch (error) {
        log('warn', 'worker.misspoke', { pid: orphan.pid, error: (error as Error).message });
        socket.destroy();
      }
    });
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      orphans.delete(orphan);
      for (const tunnelId of orphan.sessions.keys()) ports.onSessions(tunnelId, orphan.pid, 0);
    });
  });

  return {
    retireAll() {
      for (const orphan of orphans) retire(orphan);
    },
  };
}
