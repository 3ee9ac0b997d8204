import { connect, type Socket } from 'node:net';
import { planDelayMs } from '../core/backoff.ts';
import { createLineSplitter } from '../core/control-protocol.ts';
import type { AgentToOrphan, WorkerToAgent } from '../core/worker-protocol.ts';

const taken: ReadonlySet<string> = new Set<AgentToOrphan['kind']>([
  'retire',
  'tunnel.close',
  'tunnel.endpoints',
  'ping',
]);

export interface NextAgentHost {
  random: () => number;
  /** The first message of each connection. */
  hello(): WorkerToAgent;
  receive(message: AgentToOrphan): void;
}

/**
 * Looks for the next agent after ours has gone: connects to its callback socket, again and again with back-off,
 * and speaks newline-delimited JSON there.
 *
 * Errors: none; an agent that says what is no message of ours is left, and tried again later.
 */
export class NextAgent {
  readonly #path: string;
  readonly #host: NextAgentHost;
  #socket: Socket | null = null;
  #connected = false;
  #failures = 0;

  constructor(path: string, host: NextAgentHost) {
    this.#path = path;
    this.#host = host;
    this.#connect();
  }

  get connected(): boolean {
    return this.#connected;
  }

  /** What is said while there is no agent is lost: `hello` tells the next one how things stand. */
  send(message: WorkerToAgent, sent: () => void = () => {}): void {
    if (this.#socket === null || !this.#connected) sent();
    else this.#socket.write(`${JSON.stringify(message)}\n`, () => sent());
  }

  #connect(): void {
    const socket = connect(this.#path);
    const splitLines = createLineSplitter();
    this.#socket = socket;
    // Sessions keep the process alive; looking for an agent does not.
    socket.unref();
    socket.on('connect', () => {
      this.#connected = true;
      this.send(this.#host.hello());
    });
    socket.on('data', (chunk: Buffer) => {
      try {
        for (const line of splitLines(chunk)) this.#receive(line);
      } catch {
        socket.destroy();
      }
    });
    // 'close' follows.
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#connected = false;
      this.#failures += 1;
      setTimeout(() => this.#connect(), planDelayMs(this.#failures, this.#host.random())).unref();
    });
  }

  #receive(line: string): void {
    const message = JSON.parse(line) as AgentToOrphan | null;
    if (message === null || !taken.has(message.kind)) throw new Error('no message for us');
    this.#failures = 0;
    this.#host.receive(message);
  }
}
