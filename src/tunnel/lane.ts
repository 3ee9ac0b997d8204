import type { Socket } from 'node:net';
import { CallLedger, RecordReader } from '../core/rpc-record.ts';
import { decideStall, initialStallState } from '../core/stall.ts';
import type { Flow } from './budget.ts';
import type { Upstream } from './dial.ts';

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
  #sentBytes = 0;
  #stall = initialStallState;
  readonly #pausedFor = new Set<'client' | 'other-lanes'>();

  constructor(upstream: Upstream) {
    this.upstream = upstream;
  }

  get socket(): Socket {
    return this.upstream.socket;
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

  send(bytes: Uint8Array, sent: () => void): void {
    if (!this.socket.writable) return;
    this.#sentBytes += bytes.length;
    this.socket.write(bytes, sent);
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
   */
  tick(limitTicks: number, sendingXid: number | null): boolean {
    const unfinished = sendingXid !== null && this.ledger.isUnanswered(sendingXid) ? 1 : 0;
    const backlogBytes = this.socket.writableLength;
    const [next, stalled] = decideStall(
      this.#stall,
      {
        owesAnswer: this.ledger.unanswered > unfinished,
        receivedBytes: this.receivedBytes,
        takenBytes: this.#sentBytes - backlogBytes,
        backlogBytes,
        paused: this.paused,
      },
      limitTicks,
    );
    this.#stall = next;
    return stalled;
  }
}
