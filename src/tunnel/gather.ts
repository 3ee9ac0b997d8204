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
  /** Full blocks whose bytes the kernel has not taken yet, and after how many bytes of the stream it has. */
  #full: { slab: Buffer; takenAtBytes: number }[] = [];
  #writtenBytes = 0;
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

  /**
   * Copies `bytes`: the caller's buffer is free again when this returns.
   *
   * @param moreExpected false when nothing can follow that would be worth gathering: the turn's end is then not
   * waited for, which spares a caller who asks one thing at a time a round of the event loop.
   */
  add(bytes: Uint8Array, moreExpected = true): void {
    let slab = this.#slab;
    if (slab !== null && slab.length - this.#endBytes < bytes.length) {
      this.flush();
      this.#full.push({ slab, takenAtBytes: this.#writtenBytes });
      this.#slab = null;
      this.#giveBack();
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
    if (moreExpected) {
      this.#turnEnds = true;
      setImmediate(this.#endTurn);
    }
    this.flush();
  }

  /** Hands everything that was gathered to the socket. */
  flush(): void {
    if (this.#slab === null || this.#startBytes === this.#endBytes) return;
    const piece = this.#slab.subarray(this.#startBytes, this.#endBytes);
    this.#startBytes = this.#endBytes;
    this.#writtenBytes += piece.length;
    if (this.#sink.writable) this.#sink.write(piece, this.#written);
  }

  readonly #endTurn = (): void => {
    this.#turnEnds = false;
    this.flush();
  };

  readonly #written = (): void => {
    this.#giveBack();
    this.#changed();
  };

  /** Writes finish in order, so a block is free once the kernel has taken everything up to its end. */
  #giveBack(): void {
    // After a failed write the kernel may still read from the blocks: they are left to the garbage collector.
    if (this.#sink.destroyed) return;
    const takenBytes = this.#writtenBytes - this.#sink.writableLength;
    while (this.#full.length > 0 && this.#full[0]!.takenAtBytes <= takenBytes) {
      this.#slabs.give(this.#full.shift()!.slab);
    }
    if (this.#slab !== null && this.#startBytes === this.#endBytes && takenBytes === this.#writtenBytes) {
      this.#slabs.give(this.#slab);
      this.#slab = null;
    }
  }
}
