import type { Server, Socket } from 'node:net';
import type { AgentMessage, AgentStatus, ClientMessage, LogLevelState } from '../core/control-protocol.ts';
import { AgentError } from '../core/errors.ts';
import type { Clock, Log } from '../core/ports.ts';
import type { MountReport } from './cloudwatch.ts';
import { type Answers, holdConversations, type Send, sendMessage } from './conversation.ts';
import type { Mounts } from './mounts.ts';
import type { Mount } from './tunnel.ts';

export interface ControlPorts {
  clock: Clock;
  log: Log;
  mounts: Mounts;
  report: MountReport;
  status(): AgentStatus;
  /** Changes how much is logged, unless it is null, and says how much that is. */
  changeLogLevel(change: Extract<ClientMessage, { kind: 'log-level' }>['change']): LogLevelState;
  /** Starts a successor and gives it everything. Errors: `agent.start-failed`; then this agent goes on. */
  takeOver(program: string): Promise<number>;
  /** Ends this agent: it has been taken over. */
  leave(): void;
}

/** Root's limits keep a defect of a program from becoming one of the agent: five hundred mounts at once are usual. */
const limits = { mostOpen: 2_048, patienceMs: 30_000 };

/** The agent's side of the control socket. */
export interface Control {
  readonly server: Server;
  /**
   * Takes no more clients, and waits until those that mount or ask are done; a tunnel that a command holds open
   * is not waited for.
   */
  drain(timeoutMs: number): Promise<void>;
}

/** Answers helpers and commands on the control socket: one conversation per connection. */
export function serveControl(server: Server, ports: ControlPorts): Control {
  const conversations = new Set<Conversation>();
  let checkDrained = () => {};
  holdConversations(server, limits, ports, (socket, send) => {
    const conversation = answerClient(socket, send, ports);
    conversations.add(conversation);
    socket.on('close', () => {
      conversations.delete(conversation);
      checkDrained();
    });
    return conversation;
  });
  return {
    server,
    drain(timeoutMs) {
      server.close();
      return new Promise((resolve) => {
        const deadline = ports.clock.schedule(timeoutMs, resolve);
        checkDrained = () => {
          if ([...conversations].some((conversation) => !conversation.isDone())) return;
          deadline.cancel();
          resolve();
        };
        checkDrained();
      });
    },
  };
}

interface Conversation extends Answers {
  /** It asked for the takeover, or only keeps a tunnel open that serves no mount. */
  isDone(): boolean;
}

function answerClient(socket: Socket, sendLine: Send, ports: ControlPorts): Conversation {
  const { mounts } = ports;
  const gone = new AbortController();
  let mount: Mount | null = null;
  let takesOver = false;
  const send = (message: AgentMessage) => sendMessage(sendLine, message);
  socket.on('close', () => gone.abort());

  async function answer(message: ClientMessage): Promise<void> {
    switch (message.kind) {
      case 'tunnel.open': {
        if (mount !== null) throw new AgentError('agent.protocol', 'this connection has a mount already');
        const startedMonoMs = ports.clock.monoMs();
        const progress = (phase: string) =>
          send({ kind: 'progress', phase, elapsedMs: Math.round(ports.clock.monoMs() - startedMonoMs) });
        const opened = await mounts.open(message, gone.signal, progress).catch((error: unknown) => {
          ports.report.failed(message, error, '');
          throw error;
        });
        mount = opened.mount;
        const { server, port, plan } = opened.mount;
        const { retry, readAhead } = opened;
        const otherPort = plan.mountTargetPort === 2049 ? null : plan.mountTargetPort;
        send({
          kind: 'tunnel.ready',
          server,
          port: port ?? otherPort,
          dnsName: plan.dnsName,
          fileSystemId: plan.fileSystemId,
          retry,
          readAhead,
        });
        break;
      }
      case 'compare':
        send({ kind: 'compared', served: await mounts.compare(message) });
        break;
      case 'whoami':
        send({ kind: 'identity', identity: await mounts.whoami(message) });
        break;
      case 'mount.ended': {
        if (mount === null) throw new AgentError('agent.protocol', 'there is no mount to end');
        const ended = mount;
        mount = null;
        if (message.status !== 0) {
          await mounts.undo(ended);
          const reason = await mounts.explain(ended, message.status, message.stderr);
          ports.report.failed(ended.plan, reason, message.stderr);
          throw reason;
        }
        await mounts.confirm(ended);
        send({ kind: 'mounted' });
        ports.report.mounted(ended.plan);
        break;
      }
      case 'unmounted':
        send({ kind: 'closed', found: await mounts.unmounted(message.mountPoint) });
        break;
      case 'takeover':
        takesOver = true;
        send({ kind: 'taken-over', pid: await ports.takeOver(message.program) });
        socket.end(() => ports.leave());
        break;
      case 'log-level':
        send({ kind: 'log-level', state: ports.changeLogLevel(message.change) });
        break;
      case 'status':
        await mounts.refresh();
        send({ kind: 'status', status: ports.status() });
        break;
    }
  }

  return {
    answer,
    mayBeSilent: () => mount !== null,
    // The caller died, or the tunnel command ended: whatever was opened for it and is not mounted goes.
    end: async () => {
      if (mount !== null) await mounts.abandon(mount);
    },
    isDone: () => takesOver || mount?.phase === 'tunnel',
  };
}
