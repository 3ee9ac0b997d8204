import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { getSystemErrorName } from 'node:util';

/** One write of node's own; it is `this` of `oncomplete`, and the rest is ours. */
interface WriteRequest {
  oncomplete(status: number, handle: unknown, reason?: string): void;
  bytes: number;
  taken: () => void;
}

/** What carries a socket's bytes underneath its stream. */
interface Handle {
  writeBuffer(request: WriteRequest, bytes: Uint8Array): number;
}

interface Inside {
  WriteWrap: new () => WriteRequest;
  streamBaseState: Int32Array;
  kLastWriteWasAsync: number;
}

const inside = findInside();

/**
 * Writes to a connected socket, past its stream as far as this Node lets us: what lies between costs a small call
 * as much as the kernel does, and copies what is written while another write is on its way. The only file that
 * knows how node writes; where it finds another inside than it expects, it writes to the stream.
 *
 * A write that fails destroys the socket. Source: docs/decisions/0015.
 */
export class Writer {
  /**
   * What was handed to `write` is not needed any more when that returns: TLS has encrypted it. It is one write at
   * a time then.
   */
  readonly encryptsAtOnce: boolean;
  readonly #socket: Socket & { _handle?: Handle | null };
  readonly #isDirect: boolean;
  #spare: WriteRequest | null = null;
  #pendingBytes = 0;

  constructor(socket: Socket) {
    this.#socket = socket;
    // Two writes of TLS at once would end the process, so one that the stream has begun keeps us to the stream.
    this.#isDirect =
      inside !== null &&
      socket.writableLength === 0 &&
      typeof this.#socket._handle?.writeBuffer === 'function';
    this.encryptsAtOnce = this.#isDirect && socket instanceof TLSSocket;
  }

  /** What was handed over and not yet taken by the kernel. */
  get pendingBytes(): number {
    return this.#pendingBytes;
  }

  /**
   * Hands bytes over. True: the kernel has taken them all. False: it has not yet, and `taken` is called when it has;
   * never when the socket fails before that.
   */
  write(bytes: Uint8Array, taken: () => void): boolean {
    if (this.#isDirect) return this.#writeDirectly(bytes, taken);
    if (!this.#socket.writable) return false;
    this.#pendingBytes += bytes.length;
    this.#socket.write(bytes, (error) => {
      if (error !== null && error !== undefined) return;
      this.#pendingBytes -= bytes.length;
      taken();
    });
    return false;
  }

  #writeDirectly(bytes: Uint8Array, taken: () => void): boolean {
    const socket = this.#socket;
    const handle = socket._handle;
    if (handle === null || handle === undefined) return false;
    const { WriteWrap, streamBaseState, kLastWriteWasAsync } = inside!;
    const request = this.#spare ?? this.#createRequest(new WriteWrap());
    this.#spare = null;
    request.bytes = bytes.length;
    request.taken = taken;
    this.#pendingBytes += bytes.length;
    const status = handle.writeBuffer(request, bytes);
    if (status !== 0) {
      socket.destroy(createWriteError(status));
      return false;
    }
    if (streamBaseState[kLastWriteWasAsync] !== 0) return false;
    this.#pendingBytes -= bytes.length;
    this.#spare = request;
    return true;
  }

  #createRequest(request: WriteRequest): WriteRequest {
    // A failure may be told before `writeBuffer` returns.
    request.oncomplete = (status, _handle, reason) => {
      if (this.#socket.destroyed) return;
      if (status < 0) {
        this.#socket.destroy(createWriteError(status, reason));
        return;
      }
      this.#pendingBytes -= request.bytes;
      request.taken();
    };
    return request;
  }
}

function createWriteError(status: number, reason?: string): NodeJS.ErrnoException {
  const code = getSystemErrorName(status);
  return Object.assign(new Error(reason ?? `write ${code}`), { code, syscall: 'write' });
}

function findInside(): Inside | null {
  try {
    const { binding } = process as unknown as { binding(name: string): Partial<Inside> };
    const { WriteWrap, streamBaseState, kLastWriteWasAsync } = binding('stream_wrap');
    const isKnown =
      typeof WriteWrap === 'function' &&
      streamBaseState instanceof Int32Array &&
      typeof kLastWriteWasAsync === 'number' &&
      kLastWriteWasAsync < streamBaseState.length;
    return isKnown ? { WriteWrap, streamBaseState, kLastWriteWasAsync } : null;
  } catch {
    return null;
  }
}
