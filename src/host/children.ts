import { type ChildProcess, fork, type SendHandle, type Serializable } from 'node:child_process';
import { type Server, Socket } from 'node:net';
import { Allowance } from '../core/allowance.ts';
import type { Child } from '../core/ports.ts';

/** What is taken from a child that speaks with the network; with anything else it is ended. */
export interface Distrust<Received> {
  /** Errors: any, for what is no message; null for one that is passed over. */
  parse(value: unknown): Received | null;
  /** Messages in a second, and ten times that at once. */
  messagesPerSecond: number;
  /** Bytes outside of the heap, that is, of messages that are not whole yet, on top of the least since its start. */
  memoryBytes: number;
}

/**
 * Starts one of our programs as a child process with an IPC channel.
 *
 * Its environment is what `environment` says and nothing else.
 *
 * @param program path of a bundle.
 * @param options `nodeOptions` are flags for node, such as heap sizes; `detached` gives it a session of its own.
 */
export function startChild<Sent, Received>(
  program: string,
  options: {
    environment: NodeJS.ProcessEnv;
    argv?: string[];
    nodeOptions?: readonly string[];
    detached?: boolean;
    distrust?: Distrust<Received>;
  },
): Child<Sent, Received> {
  const child: ChildProcess = fork(program, options.argv ?? [], {
    execArgv: [...(options.nodeOptions ?? [])],
    env: options.environment,
    detached: options.detached ?? false,
    cwd: '/',
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const guard = options.distrust === undefined ? null : watch(child, options.distrust);
  return {
    pid: child.pid ?? -1,
    send(message, socket) {
      // A channel that just closed is reported by 'exit'; the message is lost with the process.
      if (child.connected)
        child.send(message as Serializable, handleOf(socket), { keepOpen: true }, () => {});
    },
    onMessage(listener) {
      child.on('message', (message, handle) => {
        if (guard === null) listener(message as Received);
        else guard.receive(message, handle, listener);
      });
    },
    onExit(listener) {
      let told = false;
      const tell = (how: string) => {
        if (told) return;
        told = true;
        listener(how);
      };
      child.once('error', (error) => tell(error.message));
      child.once('exit', (code, signal) =>
        tell(guard?.fault() ?? (signal === null ? `exit status ${code}` : `signal ${signal}`)),
      );
    },
    kill(signal) {
      child.kill(signal);
    },
  };
}

/** How each watched child is ended. */
const watched = new Set<(fault: string) => void>();

/**
 * Ends the watched children if an error came from reading what one of them sent: Node throws it where nobody can catch it,
 * and does not say whose it was.
 *
 * False when the error has another origin.
 */
export function blameChildren(thrown: unknown): boolean {
  const isTheirs = thrown instanceof Error && /node:internal\/child_process/.test(thrown.stack ?? '');
  if (isTheirs) for (const end of watched) end('it sent what is no message');
  return isTheirs && watched.size > 0;
}

function watch<Received>(child: ChildProcess, { parse, messagesPerSecond, memoryBytes }: Distrust<Received>) {
  let fault: string | null = null;
  const allowance = new Allowance(messagesPerSecond, performance.now());
  const end = (why: string) => {
    fault ??= `ended by us: ${why}`;
    child.kill('SIGKILL');
    hangUp(child);
  };
  // What an earlier child sent is held until it is collected: this one answers for what comes on top.
  let leastBytes = process.memoryUsage().arrayBuffers;
  // Whenever the event loop has handled what has come, some megabytes at a time. A timer could be too late for them, and
  // would wake an idle machine: an immediate that is not referred to wakes nobody.
  const look = (): void => {
    if (!watched.has(end)) return;
    setImmediate(look).unref();
    const heldBytes = process.memoryUsage().arrayBuffers;
    leastBytes = Math.min(leastBytes, heldBytes);
    if (heldBytes - leastBytes > memoryBytes) end('it sent a message without an end');
  };
  watched.add(end);
  look();
  child.once('exit', () => {
    watched.delete(end);
    hangUp(child);
  });
  return {
    fault: () => fault,
    receive(message: unknown, handle: unknown, listener: (message: Received) => void): void {
      if (fault !== null) return;
      const isWithin = allowance.spend(1, performance.now());
      if (handle !== undefined && handle !== null) {
        if (handle instanceof Socket) handle.destroy();
        else (handle as Server).close();
        end('it sent a socket');
      } else if (!isWithin) end(`it sent more than ${messagesPerSecond} messages a second`);
      else {
        let parsed: Received | null = null;
        try {
          parsed = parse(message);
        } catch (error) {
          end((error as Error).message);
        }
        if (parsed !== null) listener(parsed);
      }
    },
  };
}

/**
 * Closes the channel: a program that the child has started may hold the other end, and go on sending when it is gone.
 *
 * Node puts it off while a message has come in part, until one is whole; this one tells nothing and is whole.
 */
function hangUp(child: ChildProcess): void {
  if (!child.connected) return;
  child.disconnect();
  child.emit('internalMessage', {});
}

/**
 * What travels: a listening server as it is; of an accepted socket its bare handle, for a child that is given a
 * whole socket starts to read from it at once, and bytes that were read cannot be handed to anyone else.
 */
function handleOf(socket: Socket | Server | undefined): SendHandle | undefined {
  if (!(socket instanceof Socket)) return socket;
  return (socket as unknown as { _handle: SendHandle | null })._handle ?? undefined;
}
