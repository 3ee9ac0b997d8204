import type { Server, Socket } from 'node:net';
import {
  type AgentMessage,
  type AgentStatus,
  type ClientMessage,
  createLineSplitter,
  formatMessage,
  parseClientMessage,
} from '../core/control-protocol.ts';
import { AgentError, asAgentError } from '../core/errors.ts';
import type { Clock, Log } from '../core/ports.ts';
import type { Mounts } from './mounts.ts';
import type { Tunnel } from './tunnel.ts';

export interface ControlPorts {
  clock: Clock;
  log: Log;
  mounts: Mounts;
  status(): AgentStatus;
}

/** A client that says nothing is sent away after this long, in milliseconds. */
const silentClientMs = 30_000;

/** Answers helpers and commands on the control socket: one conversation per connection. */
export function serveControl(server: Server, ports: ControlPorts): void {
  server.on('connection', (socket) => converse(socket, ports));
}

/** The requests of a connection are answered one after the other, in their order. */
function converse(socket: Socket, ports: ControlPorts): void {
  const { log, mounts } = ports;
  const splitLines = createLineSplitter();
  const gone = new AbortController();
  let tunnel: Tunnel | null = null;
  let work: Promise<void> = Promise.resolve();

  const send = (message: AgentMessage) => {
    if (!socket.destroyed) socket.write(formatMessage(message));
  };
  const fail = (error: unknown) => {
    const known = asAgentError(error);
    log(known.code === 'internal' ? 'error' : 'warn', 'request.failed', {
      code: known.code,
      error: known.message,
    });
    send({ kind: 'failed', error: known.toMessage() });
  };

  async function answer(message: ClientMessage): Promise<void> {
    switch (message.kind) {
      case 'tunnel.open': {
        if (tunnel !== null) throw new AgentError('agent.protocol', 'this connection has a tunnel already');
        const startedMonoMs = ports.clock.monoMs();
        const opened = await mounts.open(message, gone.signal, (phase) => {
          send({ kind: 'progress', phase, elapsedMs: Math.round(ports.clock.monoMs() - startedMonoMs) });
        });
        tunnel = opened.tunnel;
        const { port, plan } = opened.tunnel;
        const { retry, readAhead } = opened;
        send({
          kind: 'tunnel.ready',
          port,
          dnsName: plan.dnsName,
          fileSystemId: plan.fileSystemId,
          retry,
          readAhead,
        });
        break;
      }
      case 'mount.ended': {
        if (tunnel === null) throw new AgentError('agent.protocol', 'there is no mount to end');
        const ended = tunnel;
        tunnel = null;
        if (message.status !== 0) {
          await mounts.undo(ended);
          throw await mounts.explain(ended, message.status, message.stderr);
        }
        mounts.confirm(ended);
        send({ kind: 'mounted' });
        break;
      }
      case 'unmounted':
        send({ kind: 'closed', found: await mounts.unmounted(message.mountPoint) });
        break;
      case 'status':
        send({ kind: 'status', status: ports.status() });
        break;
    }
  }

  const silence = ports.clock.schedule(silentClientMs, () => socket.destroy());
  socket.on('data', (chunk) => {
    silence.cancel();
    try {
      for (const line of splitLines(chunk)) {
        const message = parseClientMessage(line);
        work = work.then(() => answer(message)).catch(fail);
      }
    } catch (error) {
      fail(error);
      socket.end();
    }
  });
  socket.on('error', () => socket.destroy());
  socket.on('close', () => {
    silence.cancel();
    gone.abort();
    // The caller died, or the tunnel command ended: whatever was opened for it and is not mounted goes.
    work
      .then(() => (tunnel === null ? undefined : mounts.abandon(tunnel)))
      .catch((error: unknown) => log('error', 'undo.failed', { error: asAgentError(error).message }));
  });
}
