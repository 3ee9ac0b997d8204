import type { Server, Socket } from 'node:net';
import {
  type AgentMessage,
  type ClientMessage,
  createLineSplitter,
  formatMessage,
  parseClientMessage,
} from '../core/control-protocol.ts';
import { AgentError, asAgentError } from '../core/errors.ts';
import type { Clock, Log } from '../core/ports.ts';

/** What clients of a socket may cost the agent. */
export interface ConversationLimits {
  /** Conversations at a time; one more is told so and ends. */
  mostOpen: number;
  /**
   * How long a client may take for a request, from the end of the last answer to its last byte, and for taking an answer,
   * in milliseconds.
   */
  patienceMs: number;
}

/** Requests of one client that wait for their turn; no more is read from it while there are as many. */
const mostWaiting = 16;

interface Ports {
  clock: Clock;
  log: Log;
}

/** The agent's side of one conversation. */
export interface Answers {
  /** Answers a request; the next one waits for that. Errors: any; the client is told. */
  answer(message: ClientMessage): Promise<void>;
  /** The client may be silent as long as it likes: something is open for it. */
  mayBeSilent(): boolean;
  /** The conversation is over and its last request done. */
  end(): Promise<void>;
}

/** Gives the client a message, if it is still there. */
export type Send = (line: string) => void;

/**
 * Holds a conversation with each client of a socket. One that sends what is no message, or too slowly, is sent away.
 *
 * @param begin makes the answers of a new conversation.
 */
export function holdConversations(
  server: Server,
  limits: ConversationLimits,
  ports: Ports,
  begin: (socket: Socket, send: Send) => Answers,
): void {
  let open = 0;
  server.on('connection', (socket) => {
    const send = createSend(socket);
    if (open >= limits.mostOpen) {
      report(new AgentError('agent.unreachable', `the agent talks to ${open} clients already`), ports, send);
      socket.destroySoon();
      return;
    }
    open += 1;
    socket.on('close', () => {
      open -= 1;
    });
    converse(socket, limits, ports, send, begin(socket, send));
  });
}

/** Goes on with a client that we have called; it is there already. */
export function holdConversation(
  socket: Socket,
  limits: ConversationLimits,
  ports: Ports,
  begin: (socket: Socket, send: Send) => Answers,
): void {
  const send = createSend(socket);
  // One that hung up before anybody listened says so once more.
  if (socket.closed) process.nextTick(() => socket.emit('close'));
  converse(socket, limits, ports, send, begin(socket, send));
}

function createSend(socket: Socket): Send {
  socket.on('error', () => socket.destroy());
  return (line) => {
    if (!socket.destroyed) socket.write(line);
  };
}

/** One message as the client reads it. */
export function sendMessage(send: Send, message: AgentMessage): void {
  send(formatMessage(message));
}

function report(error: unknown, { log }: Ports, send: Send): void {
  const known = asAgentError(error);
  const level = known.code === 'internal' ? 'error' : 'warn';
  log(level, 'request.failed', { code: known.code, error: known.message });
  sendMessage(send, { kind: 'failed', error: known.toMessage() });
}

/** The requests of a connection are answered one after the other, in their order. */
function converse(
  socket: Socket,
  { patienceMs }: ConversationLimits,
  ports: Ports,
  send: Send,
  answers: Answers,
): void {
  const splitLines = createLineSplitter();
  let work: Promise<void> = Promise.resolve();
  let waiting = 0;
  let requestBegun = false;
  let isRefused = false;
  let deadline: { cancel(): void } | null = null;

  const beImpatient = () => {
    deadline ??= ports.clock.schedule(patienceMs, () => socket.destroy());
  };
  const bePatient = () => {
    deadline?.cancel();
    deadline = null;
  };

  async function take(message: ClientMessage): Promise<void> {
    await answers.answer(message).catch((error: unknown) => report(error, ports, send));
    if (socket.writableNeedDrain) {
      beImpatient();
      await untilDrained(socket);
      bePatient();
    }
    waiting -= 1;
    if (waiting < mostWaiting) socket.resume();
    if (waiting === 0 && (requestBegun || !answers.mayBeSilent())) beImpatient();
  }

  socket.on('data', (chunk) => {
    if (isRefused) return;
    try {
      for (const line of splitLines(chunk)) {
        const message = parseClientMessage(line);
        bePatient();
        waiting += 1;
        work = work.then(() => take(message));
      }
      requestBegun = chunk.at(-1) !== newline;
      if (waiting === 0) beImpatient();
      if (waiting >= mostWaiting) socket.pause();
    } catch (error) {
      isRefused = true;
      work = work.then(() => {
        report(error, ports, send);
        beImpatient();
        socket.destroySoon();
      });
    }
  });
  socket.on('close', () => {
    bePatient();
    work
      .then(() => answers.end())
      .catch((error: unknown) => ports.log('error', 'undo.failed', { error: asAgentError(error).message }));
  });
  if (!answers.mayBeSilent()) beImpatient();
}

const newline = 10;

function untilDrained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const finish = () => {
      socket.off('drain', finish);
      socket.off('close', finish);
      resolve();
    };
    socket.on('drain', finish);
    socket.on('close', finish);
  });
}
