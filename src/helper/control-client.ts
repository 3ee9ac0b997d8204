import { connect, type Socket } from 'node:net';
import {
  type AgentMessage,
  type ClientMessage,
  createLineSplitter,
  formatMessage,
  maxAnswerBytes,
  parseAgentMessage,
} from '../core/control-protocol.ts';
import { AgentError, asAgentError } from '../core/errors.ts';

/** One conversation with the agent. */
export interface AgentConnection {
  send(message: ClientMessage): void;
  /**
   * The agent's next message.
   *
   * Errors: `agent.unreachable` when the agent ends the connection or says nothing for `timeoutMs` (null: waits for
   * ever); `agent.protocol` for what is no message.
   */
  receive(timeoutMs: number | null): Promise<AgentMessage>;
  /** Ends the conversation; a tunnel that is not recorded as mounted is undone by the agent. */
  close(): void;
  /** Aborted as soon as the conversation is over, whoever ended it. */
  readonly ended: AbortSignal;
}

/**
 * Connects to the agent; null when none listens there (no socket, or one whose agent is gone).
 *
 * Errors: `permission.not-root`; `agent.unreachable` for any other reason, such as a path that is too long.
 */
export function connectToAgent(socketPath: string): Promise<AgentConnection | null> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath);
    socket.once('connect', () => {
      socket.removeAllListeners('error');
      resolve(openConversation(socket));
    });
    socket.once('error', (cause: NodeJS.ErrnoException) => {
      const code = cause.code ?? cause.message;
      if (absentCodes.has(code)) resolve(null);
      else if (code === 'EACCES')
        reject(
          new AgentError(
            'permission.not-root',
            `only root can talk to the agent at ${socketPath}`,
            {},
            cause,
          ),
        );
      else reject(unreachable(`cannot connect to ${socketPath}: ${code}`, cause));
    });
  });
}

/**
 * EAGAIN: the agent's backlog is full at this moment; it listens, and trying again is right. ECONNRESET: it died while we
 * waited in its backlog.
 */
const absentCodes = new Set(['ENOENT', 'ENOTDIR', 'ECONNREFUSED', 'EAGAIN', 'ECONNRESET']);

/** Talks to an agent over a connection that is there. */
export function openConversation(socket: Socket): AgentConnection {
  const split = createLineSplitter(maxAnswerBytes);
  const messages: AgentMessage[] = [];
  const ended = new AbortController();
  let failure: AgentError | null = null;
  let wake = () => {};

  const end = (error: AgentError) => {
    failure ??= error;
    socket.destroy();
    wake();
    ended.abort();
  };
  socket.on('data', (chunk) => {
    try {
      messages.push(...split(chunk).map(parseAgentMessage));
      wake();
    } catch (thrown) {
      end(asAgentError(thrown));
    }
  });
  socket.on('error', (cause) => end(unreachable('the connection to the agent broke', cause)));
  socket.on('close', () => end(unreachable('the agent ended the connection before it had answered')));

  return {
    send: (message) => {
      socket.write(formatMessage(message));
    },
    receive: async (timeoutMs) => {
      while (messages.length === 0 && failure === null) {
        await new Promise<void>((resolve) => {
          const timer =
            timeoutMs === null
              ? undefined
              : setTimeout(
                  () => end(unreachable(`the agent said nothing for ${timeoutMs / 1_000} s`)),
                  timeoutMs,
                );
          wake = () => {
            clearTimeout(timer);
            resolve();
          };
        });
      }
      const message = messages.shift();
      if (message === undefined) throw failure;
      return message;
    },
    close: () => end(unreachable('the conversation with the agent was ended here')),
    ended: ended.signal,
  };
}

function unreachable(message: string, cause?: unknown): AgentError {
  return new AgentError('agent.unreachable', message, {}, cause);
}
