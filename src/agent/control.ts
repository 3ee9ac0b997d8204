import type { Server, Socket } from 'node:net';
import { planDelayMs } from '../core/backoff.ts';
import type { AgentMessage, AgentStatus, ClientMessage, LogLevelState } from '../core/control-protocol.ts';
import { AgentError } from '../core/errors.ts';
import type { Clock, Log } from '../core/ports.ts';
import type { MountReport } from './cloudwatch.ts';
import { type Answers, holdConversation, holdConversations, type Send, sendMessage } from './conversation.ts';
import type { BeingMade, Mounts } from './mounts.ts';
import type { Mount } from './tunnel.ts';

export interface ControlPorts {
  clock: Clock;
  random: () => number;
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
  /** Goes on with a conversation that an earlier agent had. */
  resume(beingMade: BeingMade): void;
  /**
   * Takes no more clients, and waits until those that mount or ask are done; a tunnel that a command holds open
   * is not waited for.
   */
  drain(timeoutMs: number): Promise<void>;
}

/** Answers helpers and commands on the control socket: one conversation per connection. */
export function serveControl(server: Server, ports: ControlPorts): Control {
  const { clock, mounts } = ports;
  const conversations = new Set<Conversation>();
  let checkDrained = () => {};

  function begin(socket: Socket, send: Send, resumed: Resumed | null): Conversation {
    const conversation = answerClient(socket, send, ports, resumed, leave);
    conversations.add(conversation);
    socket.on('close', () => {
      conversations.delete(conversation);
      checkDrained();
    });
    return conversation;
  }

  function resume(caller: Socket, resumed: Resumed): void {
    holdConversation(caller, limits, ports, (socket, send) => begin(socket, send, resumed));
  }

  /** Whoever hung up while it mounts is called as long as it, or its mount.nfs4, lives; then what is not mounted goes. */
  async function leave({ mount, calls }: Resumed): Promise<void> {
    if (calls > 0)
      await new Promise<void>((wake) => clock.schedule(planDelayMs(calls, ports.random()), wake));
    const caller = await mounts.callAgain(mount);
    if (caller === null) await mounts.abandon(mount);
    else resume(caller, { mount, calls: calls + 1 });
  }

  holdConversations(server, limits, ports, (socket, send) => begin(socket, send, null));
  return {
    server,
    resume: ({ mount, caller }) => resume(caller, { mount, calls: 1 }),
    drain(timeoutMs) {
      server.close();
      return new Promise((resolve) => {
        const deadline = clock.schedule(timeoutMs, resolve);
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

/** A mount that is being made, and how often its caller has been called. */
interface Resumed {
  mount: Mount;
  calls: number;
}

/** @param onLeft hears that the conversation is over, and there is still a mount that belonged to it. */
function answerClient(
  socket: Socket,
  sendLine: Send,
  ports: ControlPorts,
  resumed: Resumed | null,
  onLeft: (left: Resumed) => Promise<void>,
): Conversation {
  const { mounts } = ports;
  const gone = new AbortController();
  let mount: Mount | null = resumed?.mount ?? null;
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
    // The caller died, or the tunnel command ended.
    end: async () => {
      if (mount !== null) await onLeft({ mount, calls: resumed?.calls ?? 0 });
    },
    isDone: () => takesOver || mount?.phase === 'tunnel',
  };
}
