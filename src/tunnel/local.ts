import { type OnReadOpts, Socket, type SocketConstructorOpts } from 'node:net';

/** An accepted local connection as it arrives from the agent: its bare handle, from which nothing is read yet. */
export type LocalHandle = object;

/** What one read takes at most; measured in docs/decisions/0015. */
const readBytes = 128 * 1024;

/** Every session reads into it: its bytes are encrypted, or copied, before anything else can be read. */
const incoming = Buffer.allocUnsafeSlow(readBytes);

/** The connection of an NFS client to us. */
export class Local {
  readonly socket: Socket;
  #receive: (bytes: Uint8Array) => void = () => {};
  #isPaused = false;
  #isReceiving = false;

  /** From here on bytes are read, and nobody else can have them. */
  constructor(handle: LocalHandle) {
    this.socket = openSocket(handle, {
      buffer: incoming,
      callback: (bytes) => {
        this.#isReceiving = true;
        this.#receive(bytes === readBytes ? incoming : incoming.subarray(0, bytes));
        this.#isReceiving = false;
        return !this.#isPaused;
      },
    });
  }

  /** Says who gets the bytes from now on; they are only there during the call. */
  readInto(receive: (bytes: Uint8Array) => void): void {
    this.#receive = receive;
  }

  pause(): void {
    this.#isPaused = true;
    // While bytes are received, the answer to node does it for a fraction of the work.
    if (!this.#isReceiving) this.socket.pause();
  }

  resume(): void {
    this.#isPaused = false;
    this.socket.resume();
  }
}

/** Refuses a connection that arrived for nothing. */
export function resetLocal(handle: LocalHandle): void {
  openSocket(handle).resetAndDestroy();
}

function openSocket(handle: LocalHandle, onread?: OnReadOpts): Socket {
  // The handle is what node itself passes for the sockets it accepts; its types do not name it.
  const options = { handle, allowHalfOpen: true, onread } as SocketConstructorOpts;
  const socket = new Socket(options);
  socket.on('error', () => {});
  return socket;
}
