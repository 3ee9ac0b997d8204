import type { Socket } from 'node:net';
import type { SlabPool } from './gather.ts';
import { Writer } from './writer.ts';

/**
 * Takes bytes on their way to a mount target.
 *
 * What comes while nothing is on its way is encrypted where it lies and sent at once. What comes meanwhile is
 * copied into blocks, and leaves in one write for each when the way is free.
 */
export class Outlet {
  readonly #socket: Socket;
  readonly #writer: Writer;
  readonly #slabs: SlabPool;
  readonly #changed: () => void;
  /** In order; all but the last are full. */
  #blocks: { slab: Buffer; bytes: number }[] = [];
  #blockBytes = 0;
  #isBusy = false;
  #isEnding = false;

  /** @param changed called when bytes have left: `heldBytes` is lower than before. */
  constructor(socket: Socket, slabs: SlabPool, changed: () => void) {
    this.#socket = socket;
    this.#writer = new Writer(socket);
    this.#slabs = slabs;
    this.#changed = changed;
  }

  /** What was added and not yet taken by the kernel. */
  get heldBytes(): number {
    return this.#blockBytes + this.#writer.pendingBytes;
  }

  /** The caller's buffer is free again when this returns. */
  add(bytes: Uint8Array): void {
    if (!this.#isBusy && this.#writer.encryptsAtOnce) {
      this.#write(bytes, this.#taken);
      return;
    }
    for (let at = 0; at < bytes.length; ) at += this.#keep(bytes, at);
    if (!this.#isBusy) this.#writeBlock();
  }

  /** Half-closes the socket once everything that was added is out. */
  end(): void {
    this.#isEnding = true;
    if (!this.#isBusy) this.#socket.end();
  }

  #keep(bytes: Uint8Array, at: number): number {
    let last = this.#blocks.at(-1);
    if (last === undefined || last.bytes === last.slab.length) {
      last = { slab: this.#slabs.take(), bytes: 0 };
      this.#blocks.push(last);
    }
    const piece = bytes.subarray(at, at + last.slab.length - last.bytes);
    last.slab.set(piece, last.bytes);
    last.bytes += piece.length;
    this.#blockBytes += piece.length;
    return piece.length;
  }

  #writeBlock(): void {
    const block = this.#blocks.shift()!;
    this.#blockBytes -= block.bytes;
    const bytes = block.slab.subarray(0, block.bytes);
    if (this.#writer.encryptsAtOnce) {
      this.#write(bytes, this.#taken);
      this.#slabs.give(block.slab);
    } else {
      this.#write(bytes, () => {
        this.#slabs.give(block.slab);
        this.#taken();
      });
    }
  }

  #write(bytes: Uint8Array, taken: () => void): void {
    this.#isBusy = true;
    if (this.#writer.write(bytes, taken)) this.#isBusy = false;
  }

  readonly #taken = (): void => {
    this.#isBusy = false;
    if (this.#blocks.length > 0) this.#writeBlock();
    else if (this.#isEnding) this.#socket.end();
    this.#changed();
  };
}
