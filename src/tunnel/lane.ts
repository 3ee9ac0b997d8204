import type { Socket } from 'node:net';
import { CallLedger, RecordReader } from '../core/rpc-record.ts';
import { decideStall, initialStallState, isSuspicious } from '../core/stall.ts';
import type { Flow } from './budget.ts';
import type { Upstream } from './dial.ts';
import type { SlabPool } from './gather.ts';
import { Outlet } from './outlet.ts';

/** One TLS connection of a session, with what is known of the records that pass on it. */
export class Lane {
  readonly upstream: Upstream;
  readonly ledger = new CallLedger();
  /** Finds the records that come from the mount target. */
  readonly reader = new RecordReader();
  /** Counted by the session. */
  receivedBytes = 0;
  /** What came while the record of another lane was being written to the NFS client; and what the budget knows of it. */
  waiting: { chunks: Uint8Array[]; flow: Flow } | null = null;
  readonly #outlet: Outlet;
  #sentBytes = 0;
  #stall = initialStallState;
  readonly #pausedFor = new Set<'client' | 'other-lanes'>();

  /** @param sent called when bytes have left: `heldBytes` is lower than before. */
  constructor(upstream: Upstream, slabs: SlabPool, sent: () => void) {
    this.upstream = upstream;
    this.#outlet = new Outlet(upstream.socket, slabs, sent);
  }

  get socket(): Socket {
    return this.upstream.socket;
  }

  /** What was sent and not yet taken by the kernel. */
  get heldBytes(): number {
    return this.#outlet.heldBytes;
  }

  get paused(): boolean {
    return this.#pausedFor.size > 0;
  }

  /** Nothing is under way towards the NFS client, and nobody owes an answer. */
  get isQuiet(): boolean {
    return this.reader.atBoundary && this.ledger.isEmpty;
  }

  pause(reason: 'client' | 'other-lanes'): void {
    this.#pausedFor.add(reason);
    this.socket.pause();
  }

  resume(reason: 'client' | 'other-lanes'): void {
    this.#pausedFor.delete(reason);
    if (!this.paused) this.socket.resume();
  }

  /** The caller's buffer is free again when this returns. */
  send(bytes: Uint8Array): void {
    if (this.socket.destroyed) return;
    this.#sentBytes += bytes.length;
    this.#outlet.add(bytes);
  }

  /** Half-closes the connection once everything is out. */
  end(): void {
    this.#outlet.end();
  }

  /** Takes note of bytes from the mount target, up to the end of a record; says where it stopped. */
  note(bytes: Uint8Array, at: number): number {
    const { reader, ledger } = this;
    const to = reader.advance(bytes, at);
    if (reader.atBoundary && !reader.lost) ledger.received(reader.xid, reader.isCall);
    return to;
  }

  /**
   * Once a tick: true when the mount target has owed something for too long and moved nothing.
   *
   * @param sendingXid of the request that is being sent, whose answer is not owed yet; null when there is none.
   * @param readUnacknowledged asks the kernel, which is not free.
   */
  tick(
    limitTicks: number,
    sendingXid: number | null,
    readUnacknowledged: (socket: Socket) => number | null,
  ): boolean {
    const unfinished = sendingXid !== null && this.ledger.isUnanswered(sendingXid) ? 1 : 0;
    const backlogBytes = this.heldBytes;
    const [next, stalled] = decideStall(
      this.#stall,
      {
        owesAnswer: this.ledger.unanswered > unfinished,
        receivedBytes: this.receivedBytes,
        takenBytes: this.#sentBytes - backlogBytes,
        backlogBytes,
        unacknowledgedBytes: isSuspicious(this.#stall, limitTicks) ? readUnacknowledged(this.socket) : null,
        paused: this.paused,
      },
      limitTicks,
    );
    this.#stall = next;
    return stalled;
  }
}
