import type { Socket } from 'node:net';

/** One write to the local socket carries at most this much; measured in docs/decisions/0003. */
const slabBytes = 256 * 1024;
const keptSlabs = 8;

/** Blocks of memory in which decrypted bytes wait to be written; a session that moves nothing owns none. */
export class SlabPool {
  readonly #free: Buffer[] = [];

  take(): Buffer {
    return this.#free.pop() ?? Buffer.allocUnsafeSlow(slabBytes);
  }

  give(slab: Buffer): void {
    if (this.#free.length < keptSlabs) this.#free.push(slab);
  }
}

/**
 * Writes what the TLS side decrypts, at most 16 KiB at a time, to the local socket in few large writes.
 *
 * The first bytes of an event-loop turn are written at once, so that a lone answer does not wait; what follows
 * in the same turn is gathered and written when the turn ends or a block is full.
 */
export class Gatherer {
  readonly #sink: Socket;
  readonly #slabs: SlabPool;
  readonly #changed: () => void;
  #slab: Buffer | null = null;
  #startBytes = 0;
  #endBytes = 0;
  /** Full blocks whose bytes the kernel has not taken yet. */
  #full: Buffer[] = [];
  #turnEnds = false;

  /** @param changed called when bytes have left: `heldBytes` is lower than before. */
  constructor(sink: Socket, slabs: SlabPool, changed: () => void) {
    this.#sink = sink;
    this.#slabs = slabs;
    this.#changed = changed;
  }

  /** What was added and not yet taken by the kernel. */
  get heldBytes(): number {
    return this.#endBytes - this.#startBytes + this.#sink.writableLength;
  }

  /** Copies `bytes`: the caller's buffer is free again when this returns. */
  add(bytes: Uint8Array): void {
    let slab = this.#slab;
    if (slab !== null && slab.length - this.#endBytes < bytes.length) {
      this.flush();
      this.#full.push(slab);
      slab = null;
    }
    if (slab === null) {
      slab = this.#slabs.take();
      this.#slab = slab;
      this.#startBytes = 0;
      this.#endBytes = 0;
    }
    slab.set(bytes, this.#endBytes);
    this.#endBytes += bytes.length;
    if (this.#turnEnds) return;
    this.#turnEnds = true;
    setImmediate(this.#endTurn);
    this.flush();
  }

  /** Hands everything that was gathered to the socket. */
  flush(): void {
    if (this.#slab === null || this.#startBytes === this.#endBytes) return;
    const piece = this.#slab.subarray(this.#startBytes, this.#endBytes);
    this.#startBytes = this.#endBytes;
    if (this.#sink.writable) this.#sink.write(piece, this.#written);
  }

  readonly #endTurn = (): void => {
    this.#turnEnds = false;
    this.flush();
  };

  readonly #written = (): void => {
    // Writes finish in order, so nothing refers to any block once nothing is waiting.
    if (this.#sink.writableLength === 0 && !this.#sink.destroyed) {
      for (const slab of this.#full) this.#slabs.give(slab);
      this.#full = [];
      if (this.#slab !== null && this.#startBytes === this.#endBytes) {
        this.#slabs.give(this.#slab);
        this.#slab = null;
      }
    }
    this.#changed();
  };
}
