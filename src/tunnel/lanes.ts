import type { RecordReader } from '../core/rpc-record.ts';
import type { Lane } from './lane.ts';

/** Shares the records of the NFS client out over several lanes, each record whole to one. */
export class Spreader {
  readonly #lanes: readonly Lane[];
  readonly #reader: RecordReader;
  /** Takes the record under way; null while its head is not known. */
  #lane: Lane | null;
  /** The first bytes of a record whose head is not known. */
  #heads: Uint8Array[] = [];
  #next = 0;

  /**
   * @param reader of the NFS client's stream so far.
   * @param lane which has begun the record that is under way by now; null = none is.
   */
  constructor(lanes: readonly Lane[], reader: RecordReader, lane: Lane | null) {
    this.#lanes = lanes;
    this.#reader = reader;
    this.#lane = lane;
  }

  /** Whether a record is being sent on this lane. */
  isSendingOn(lane: Lane): boolean {
    return this.#lane === lane;
  }

  /**
   * Sends on; says how many bytes it took: fewer than all when the bytes are no records, or at the end of a record
   * when `draining`.
   */
  send(chunk: Uint8Array, nowTick: number, draining: boolean): number {
    const reader = this.#reader;
    let at = 0;
    while (at < chunk.length && !(draining && reader.atBoundary)) {
      const to = reader.advance(chunk, at);
      if (reader.lost) break;
      this.#take(chunk.subarray(at, to), nowTick);
      at = to;
    }
    return at;
  }

  #take(piece: Uint8Array, nowTick: number): void {
    const reader = this.#reader;
    if (this.#lane === null && !reader.headKnown) {
      this.#heads.push(Buffer.from(piece));
      return;
    }
    this.#lane ??= this.#choose();
    const lane = this.#lane;
    if (reader.headIsNew) lane.ledger.sending(reader.xid, reader.isCall, nowTick);
    for (const head of this.#heads.splice(0)) put(lane, reader.xid, head);
    put(lane, reader.xid, piece);
    if (reader.atBoundary) this.#lane = null;
  }

  /** The answer to a callback goes where that came from; a call goes where the fewest bytes wait for an answer. */
  #choose(): Lane {
    const { xid, isCall } = this.#reader;
    const lanes = this.#lanes;
    if (!isCall) return lanes.find(({ ledger }) => ledger.hasServerCall(xid)) ?? lanes[0]!;
    let best = this.#next;
    for (let step = 1; step < lanes.length; step++) {
      const other = (this.#next + step) % lanes.length;
      if (isLighter(lanes[other]!, lanes[best]!)) best = other;
    }
    this.#next = (best + 1) % lanes.length;
    return lanes[best]!;
  }
}

function put(lane: Lane, xid: number, bytes: Uint8Array): void {
  lane.ledger.weigh(xid, bytes.length);
  lane.send(bytes);
}

function isLighter({ ledger }: Lane, { ledger: other }: Lane): boolean {
  if (ledger.outstandingBytes !== other.outstandingBytes)
    return ledger.outstandingBytes < other.outstandingBytes;
  return ledger.unanswered < other.unanswered;
}

/**
 * Brings the records of several lanes into one stream, each record whole.
 *
 * A record is written as it comes; what the other lanes bring meanwhile waits.
 */
export class Merger {
  readonly #lanes: readonly Lane[];
  readonly #write: (bytes: Uint8Array) => void;
  /** Whose record is being written. */
  #lane: Lane | null;

  /** @param lane whose record is under way by now; null = none is. */
  constructor(lanes: readonly Lane[], lane: Lane | null, write: (bytes: Uint8Array) => void) {
    this.#lanes = lanes;
    this.#lane = lane;
    this.#write = write;
  }

  /** Takes bytes of a lane; copies what has to wait. Stops when they are no records: then the lane's reader is lost. */
  receive(lane: Lane, bytes: Uint8Array): void {
    const { chunks } = lane.waiting!;
    const at = chunks.length === 0 ? this.#writeFrom(lane, bytes) : 0;
    if (at < bytes.length) chunks.push(Buffer.from(bytes.subarray(at)));
    // Whoever has waited longest is first in line once a record is through.
    for (let turn = 0; turn < this.#lanes.length && this.#lane === null; turn++) {
      const other = this.#lanes[(this.#lanes.indexOf(lane) + 1 + turn) % this.#lanes.length]!;
      this.#writeWaiting(other);
    }
    for (const { waiting } of this.#lanes) waiting!.flow.hold(bytesOf(waiting!.chunks));
  }

  #writeWaiting(lane: Lane): void {
    const { chunks } = lane.waiting!;
    while (chunks.length > 0) {
      const chunk = chunks.shift()!;
      const at = this.#writeFrom(lane, chunk);
      if (at < chunk.length) {
        chunks.unshift(chunk.subarray(at));
        return;
      }
    }
  }

  /** Writes as long as no other lane's record is under way; says how far it got. */
  #writeFrom(lane: Lane, bytes: Uint8Array): number {
    let at = 0;
    while (at < bytes.length && !lane.reader.lost && (this.#lane === null || this.#lane === lane)) {
      this.#lane = lane;
      const to = lane.note(bytes, at);
      this.#write(bytes.subarray(at, to));
      at = to;
      if (lane.reader.atBoundary) this.#lane = null;
    }
    return at;
  }
}

function bytesOf(chunks: readonly Uint8Array[]): number {
  let bytes = 0;
  for (const chunk of chunks) bytes += chunk.length;
  return bytes;
}
