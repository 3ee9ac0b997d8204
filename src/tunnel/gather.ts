import type { Socket } from 'node:net';
import { recordBytes } from './dial.ts';
import { Writer } from './writer.ts';

/** One write to the local socket carries at most this much; measured in docs/decisions/0003. */
const slabBytes = 128 * 1024;
const keptSlabs = 16;

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
 * What comes in one event-loop turn is gathered and written when the turn ends or a block is full; what nothing
 * else is expected to follow is written at once.
 */
export class Gatherer {
  readonly #writer: Writer;
  readonly #slabs: SlabPool;
  readonly #changed: () => void;
  #slab: Buffer | null = null;
  #startBytes = 0;
  #endBytes = 0;
  /** Full blocks whose bytes the kernel has not taken yet, and after how many bytes of the stream it has. */
  #full: { slab: Buffer; takenAtBytes: number }[] = [];
  #writtenBytes = 0;
  #turnEnds = false;
  /** Somebody may put bytes into what is left of the block: it stays where it is. */
  #isLent = false;

  /** @param changed called when bytes have left: `heldBytes` is lower than before. */
  constructor(sink: Socket, slabs: SlabPool, changed: () => void) {
    this.#writer = new Writer(sink);
    this.#slabs = slabs;
    this.#changed = changed;
  }

  /** What was added and not yet taken by the kernel. */
  get heldBytes(): number {
    return this.#endBytes - this.#startBytes + this.#writer.pendingBytes;
  }

  /**
   * Copies `bytes`, unless they lie in the room that was lent for them: the caller's buffer is free again when this
   * returns.
   *
   * @param moreExpected false when nothing can follow that would be worth gathering: the turn's end is then not
   * waited for, which spares a caller who asks one thing at a time a round of the event loop.
   */
  add(bytes: Uint8Array, moreExpected = true): void {
    const isInPlace =
      this.#slab !== null &&
      bytes.buffer === this.#slab.buffer &&
      bytes.byteOffset === this.#slab.byteOffset + this.#endBytes;
    if (!isInPlace) this.#slabWithRoom(bytes.length).set(bytes, this.#endBytes);
    this.#endBytes += bytes.length;
    if (this.#turnEnds) return;
    if (moreExpected) {
      this.#turnEnds = true;
      setImmediate(this.#endTurn);
    } else this.flush();
  }

  /** Where the next bytes can be put, at least one TLS record, so that `add` need not copy them. */
  lendRoom(): Buffer {
    const slab = this.#slabWithRoom(recordBytes);
    this.#isLent = true;
    return slab.subarray(this.#endBytes);
  }

  /** Nobody puts bytes into the room that was lent. */
  takeRoomBack(): void {
    if (!this.#isLent) return;
    this.#isLent = false;
    this.#giveBack();
  }

  /** Somebody may still put bytes into the room that was lent; it is never used again. */
  abandonRoom(): void {
    if (!this.#isLent) return;
    this.flush();
    this.#isLent = false;
    this.#slab = null;
  }

  /** Hands everything that was gathered to the socket. */
  flush(): void {
    if (this.#slab === null || this.#startBytes === this.#endBytes) return;
    const piece = this.#slab.subarray(this.#startBytes, this.#endBytes);
    this.#startBytes = this.#endBytes;
    this.#writtenBytes += piece.length;
    if (this.#writer.write(piece, this.#taken)) this.#giveBack();
  }

  #slabWithRoom(bytes: number): Buffer {
    if (this.#slab !== null && this.#slab.length - this.#endBytes < bytes) {
      this.#isLent = false;
      this.flush();
      // It is gone when the kernel has taken all of it at once.
      if (this.#slab !== null) this.#full.push({ slab: this.#slab, takenAtBytes: this.#writtenBytes });
      this.#slab = null;
      this.#giveBack();
    }
    if (this.#slab === null) {
      this.#slab = this.#slabs.take();
      this.#startBytes = 0;
      this.#endBytes = 0;
    }
    return this.#slab;
  }

  readonly #endTurn = (): void => {
    this.#turnEnds = false;
    this.flush();
    this.#changed();
  };

  readonly #taken = (): void => {
    this.#giveBack();
    this.#changed();
  };

  /** Writes finish in order, so a block is free once the kernel has taken everything up to its end. */
  #giveBack(): void {
    const takenBytes = this.#writtenBytes - this.#writer.pendingBytes;
    while (this.#full.length > 0 && this.#full[0]!.takenAtBytes <= takenBytes) {
      this.#slabs.give(this.#full.shift()!.slab);
    }
    const isDone = this.#startBytes === this.#endBytes && takenBytes === this.#writtenBytes;
    if (this.#slab !== null && isDone && !this.#isLent) {
      this.#slabs.give(this.#slab);
      this.#slab = null;
    }
  }
}
