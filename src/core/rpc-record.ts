/** Record mark and the two words of a record that are looked at: transaction id and message type. */
const markBytes = 4;
const headBytes = 8;
const lastFragment = 0x8000_0000;

/**
 * Finds the records in one direction of an ONC RPC stream as its bytes pass, in whatever pieces they come.
 *
 * Holds nothing back and copies nothing: payload is skipped by counting. Of each record it knows the
 * transaction id and whether it is a call, as soon as these eight bytes have passed.
 *
 * Errors: none; what cannot be an RPC stream sets `lost`, and from then on nothing is said about it.
 * Source: RFC 5531 section 11 (record marking) and section 9 (message header).
 */
export class RecordReader {
  /** No record is under way: the next byte begins one. */
  atBoundary = true;
  /** `xid` and `isCall` are those of the record under way, or of the one that has just ended. */
  headKnown = false;
  /** The last `advance` has made the head known. */
  headIsNew = false;
  xid = 0;
  isCall = false;
  /** The bytes are no RPC records. */
  lost = false;
  /** Bytes of the record so far, with its marks. */
  recordBytes = 0;
  #mark = 0;
  #missingMarkBytes = markBytes;
  #missingPayloadBytes = 0;
  #isLastFragment = false;
  #missingHeadBytes = headBytes;
  #type = 0;

  /**
   * Takes bytes up to the end of the record under way, or of `bytes`; says where it stopped.
   *
   * @param at where the bytes that are new begin; below `bytes.length`, and not after `lost`.
   */
  advance(bytes: Uint8Array, at: number): number {
    if (this.atBoundary) this.#begin();
    this.headIsNew = false;
    const from = at;
    while (at < bytes.length) {
      if (this.#missingPayloadBytes === 0) at = this.#readMark(bytes, at);
      if (this.#missingMarkBytes > 0) break;
      if (this.#missingHeadBytes > 0) at = this.#readHead(bytes, at);
      if (this.lost) return bytes.length;
      const skippedBytes = Math.min(this.#missingPayloadBytes, bytes.length - at);
      at += skippedBytes;
      this.#missingPayloadBytes -= skippedBytes;
      if (this.#missingPayloadBytes > 0) break;
      this.#missingMarkBytes = markBytes;
      if (this.#isLastFragment) {
        this.atBoundary = true;
        this.lost = !this.headKnown;
        break;
      }
    }
    this.recordBytes += at - from;
    return at;
  }

  #begin(): void {
    this.atBoundary = false;
    this.headKnown = false;
    this.recordBytes = 0;
    this.#missingMarkBytes = markBytes;
    this.#missingHeadBytes = headBytes;
    this.xid = 0;
    this.#type = 0;
  }

  #readMark(bytes: Uint8Array, at: number): number {
    while (this.#missingMarkBytes > 0 && at < bytes.length) {
      this.#mark = ((this.#mark << 8) | bytes[at]!) >>> 0;
      at += 1;
      this.#missingMarkBytes -= 1;
    }
    if (this.#missingMarkBytes === 0) {
      this.#isLastFragment = this.#mark >= lastFragment;
      this.#missingPayloadBytes = this.#mark & ~lastFragment;
    }
    return at;
  }

  #readHead(bytes: Uint8Array, at: number): number {
    let readableBytes = Math.min(this.#missingPayloadBytes, this.#missingHeadBytes, bytes.length - at);
    this.#missingPayloadBytes -= readableBytes;
    for (; readableBytes > 0; readableBytes--) {
      if (this.#missingHeadBytes > 4) this.xid = ((this.xid << 8) | bytes[at]!) >>> 0;
      else this.#type = ((this.#type << 8) | bytes[at]!) >>> 0;
      at += 1;
      this.#missingHeadBytes -= 1;
    }
    if (this.#missingHeadBytes === 0) {
      this.headKnown = true;
      this.headIsNew = true;
      this.isCall = this.#type === 0;
      this.lost = this.#type > 1;
    }
    return at;
  }
}

interface Call {
  sinceTick: number;
  bytes: number;
}

/**
 * The calls of one connection that have no answer yet, from the records that pass in both directions.
 *
 * Calls of the server (the callback channel) are kept apart: it is the client that owes their answers.
 *
 * Units: ticks, whatever the caller counts. Source: RFC 8881 section 2.10.3.1 for the callback channel.
 */
export class CallLedger {
  readonly #calls = new Map<number, Call>();
  readonly #serverCalls = new Set<number>();
  /** Bytes of the client's calls that have no answer. */
  outstandingBytes = 0;

  /** A record of the client has begun to pass. */
  sending(xid: number, isCall: boolean, nowTick: number): void {
    if (isCall) {
      if (!this.#calls.has(xid)) this.#calls.set(xid, { sinceTick: nowTick, bytes: 0 });
    } else this.#serverCalls.delete(xid);
  }

  /** More bytes of a client's call have passed. */
  weigh(xid: number, bytes: number): void {
    const call = this.#calls.get(xid);
    if (call === undefined) return;
    call.bytes += bytes;
    this.outstandingBytes += bytes;
  }

  /** A whole record of the server has passed. */
  received(xid: number, isCall: boolean): void {
    if (isCall) {
      this.#serverCalls.add(xid);
      return;
    }
    const call = this.#calls.get(xid);
    if (call === undefined) return;
    this.#calls.delete(xid);
    this.outstandingBytes -= call.bytes;
  }

  get unanswered(): number {
    return this.#calls.size;
  }

  /** Nobody owes anybody an answer. */
  get isEmpty(): boolean {
    return this.#calls.size === 0 && this.#serverCalls.size === 0;
  }

  isUnanswered(xid: number): boolean {
    return this.#calls.has(xid);
  }

  hasServerCall(xid: number): boolean {
    return this.#serverCalls.has(xid);
  }

  forgetAll(): void {
    this.#calls.clear();
    this.#serverCalls.clear();
    this.outstandingBytes = 0;
  }

  /** How many ticks ago the oldest unanswered call began; 0 when there is none. */
  oldestTicks(nowTick: number): number {
    for (const { sinceTick } of this.#calls.values()) return nowTick - sinceTick;
    return 0;
  }
}
