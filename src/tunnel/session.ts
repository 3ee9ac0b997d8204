import type { Socket } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';
import { planDelayMs } from '../core/backoff.ts';
import { type AgentError, asAgentError } from '../core/errors.ts';
import { RecordReader } from '../core/rpc-record.ts';
import { decideScale, initialScaleState, type ScaleObservation } from '../core/scale-up.ts';
import { tickMs } from '../core/stall.ts';
import type { SessionCounters, SessionEnd, SessionState, UpstreamFacts } from '../core/worker-protocol.ts';
import type { BudgetShare, Flow } from './budget.ts';
import type { Upstream } from './dial.ts';
import { Gatherer, type SlabPool } from './gather.ts';
import { Lane } from './lane.ts';
import { Merger, Spreader } from './lanes.ts';
import type { Local } from './local.ts';

/**
 * What one direction of a session may hold before its source stops reading; measured in docs/decisions/0003, 0015.
 * Towards one mount target a large write on its way is enough: what the NFS client sends meanwhile waits in the kernel.
 */
const upMarkBytes = 64 * 1024;
const markBytes = 1024 * 1024;
const keepAliveMs = 15_000;
/** How long an NFS client may take to close its side of a session that leaves; it does so at once. */
const leaveMs = 1_000;

/** What a session asks of its tunnel, and tells it. */
export interface SessionHost {
  budget: BudgetShare;
  /** Of what the kernel has taken for a connection, what the mount target has not acknowledged; null = unknown. */
  unacknowledgedBytes(socket: Socket): number | null;
  slabs: SlabPool;
  random: () => number;
  /** Ticks of the worker so far. */
  nowTick(): number;
  /** Bytes are about to move, perhaps for the first time in a while. */
  stir(): void;
  /** Connections to the mount target that are of one partition: warm ones, or a new one. Errors: those of `dialUpstream`. */
  connect(signal: AbortSignal): Promise<readonly Upstream[]>;
  /** What bears on having more connections; null when the mount target treats none of them as one with the first. */
  scaling(): Omit<ScaleObservation, 'bytes' | 'connections' | 'nowTick'> | null;
  /** Looks for more connections of the same partition; none when there are none, or the session has to move. */
  widen(signal: AbortSignal): Promise<readonly Upstream[]>;
  /** The session will dial again soon: fresh addresses are welcome. */
  wantEndpoints(): void;
  /** A try to connect has failed. `again` is false when the one before failed with the same code. */
  dialFailed(error: AgentError, again: boolean): void;
  connected(facts: UpstreamFacts): void;
  /** The first bytes of the mount target have come. */
  answered(): void;
  /** The mount target owed an answer and was silent; `closed` follows. */
  stalled(facts: UpstreamFacts, state: SessionState): void;
  /** The bytes are no RPC records: what is under way is not known any more. */
  unparsed(): void;
  /** How many connections carry it from now on. */
  widened(connections: number): void;
  closed(cause: SessionEnd, counters: SessionCounters, error: string | null): void;
}

/**
 * Joins one local stream to a mount target, and carries bytes until either ends.
 *
 * End-of-stream on one side is passed on as half-close and the other direction goes on. An error on
 * either side destroys both; the local socket is then reset, so that the kernel reconnects at once.
 * While no connection to the mount target can be made, the local stream is held and dialling repeated.
 *
 * The records that pass are counted, to notice that the mount target has fallen silent, and to leave at a moment
 * when nothing is under way. While there is one TLS connection they are not held back for that. Over several, each
 * record goes whole over one of them; an end of any one is then the end of the session, as the kernel can repeat
 * what is unanswered.
 */
export class Session {
  readonly #id: number;
  readonly #inlet: Local;
  readonly #local: Socket;
  readonly #host: SessionHost;
  readonly #dialling = new AbortController();
  readonly #gatherer: Gatherer;
  readonly #up: Flow;
  readonly #down: Flow;
  /** The TLS connections; none while it is dialled. */
  #lanes: readonly Lane[] = [];
  /** When there are several of them. */
  #wide: { spreader: Spreader; merger: Merger } | null = null;
  #scale = initialScaleState;
  #searching = false;
  /** As of the last tick. */
  #bytesUpBefore = 0;
  /** Finds the records that come from the NFS client. */
  readonly #reader = new RecordReader();
  /** What the NFS client sent before there was an upstream. */
  #early: Buffer[] = [];
  #earlyBytes = 0;
  #lastFailure: AgentError | null = null;
  #firstEnd: SessionEnd | null = null;
  #bytesUp = 0;
  #bytesDown = 0;
  /** Why to end as soon as nothing is under way. */
  #leaving: SessionEnd | null = null;
  /** Leaving, and further requests are left to the NFS client, which repeats them on its next connection. */
  #draining = false;
  /** Nothing is carried any more; the NFS client is about to close its side. */
  #left: NodeJS.Timeout | null = null;
  /** The bytes are RPC records so far. */
  #parsing = true;
  #over = false;

  constructor(id: number, inlet: Local, host: SessionHost) {
    const local = inlet.socket;
    this.#id = id;
    this.#inlet = inlet;
    this.#local = local;
    this.#host = host;
    this.#gatherer = new Gatherer(local, host.slabs, () => {
      this.#down.hold(this.#gatherer.heldBytes);
      if (this.#leaving !== null) this.#leaveIfQuiet();
    });
    this.#up = host.budget.openFlow(upMarkBytes, {
      pause: () => inlet.pause(),
      resume: () => inlet.resume(),
    });
    this.#down = host.budget.openFlow(markBytes, {
      pause: () => {
        for (const lane of this.#lanes) lane.pause('client');
      },
      resume: () => {
        for (const lane of this.#lanes) lane.resume('client');
      },
    });

    local.allowHalfOpen = true;
    local.setNoDelay(true);
    local.setKeepAlive(true, keepAliveMs);
    inlet.readInto((bytes) => this.#sendUp(bytes));
    local.on('end', () => afterEnd(local, this.#gatherer.heldBytes, () => this.#localEnded()));
    local.on('error', (error) => this.#end('local-reset', error));
    local.on('close', () => this.#closedLeg(local, 'local-reset'));
    queueMicrotask(() => {
      // It may have ended before anybody listened.
      if (local.readableEnded) this.#localEnded();
      else if (local.destroyed) this.#end('local-reset', null);
      void this.#dial();
    });
  }

  get counters(): SessionCounters {
    return { bytesUp: this.#bytesUp, bytesDown: this.#bytesDown };
  }

  get carriedBytes(): number {
    return this.#bytesUp + this.#bytesDown;
  }

  get connections(): number {
    return this.#lanes.length;
  }

  /** A request has no answer. */
  get isOwed(): boolean {
    for (const { ledger } of this.#lanes) if (ledger.unanswered > 0) return true;
    return false;
  }

  get state(): SessionState {
    const lanes = this.#lanes;
    const nowTick = this.#host.nowTick();
    return {
      sessionId: this.#id,
      address: lanes[0]?.upstream.facts.address ?? null,
      connections: lanes.length,
      inFlight: lanes.reduce((sum, { ledger }) => sum + ledger.unanswered, 0),
      oldestMs: Math.max(0, ...lanes.map(({ ledger }) => ledger.oldestTicks(nowTick))) * tickMs,
      ...this.counters,
    };
  }

  /** Nothing moves, nobody owes an answer, and ticks are not needed. */
  get isResting(): boolean {
    if (this.#lanes.length !== 1 || this.#leaving !== null) return false;
    return this.#lanes[0]!.isQuiet && this.#lanes[0]!.heldBytes === 0 && this.#gatherer.heldBytes === 0;
  }

  /** Once a tick: ends the session when the mount target has been silent for more than `stallLimitTicks`. */
  tick(stallLimitTicks: number): void {
    if (this.#over || this.#left !== null) return;
    const reader = this.#reader;
    for (const lane of this.#lanes) {
      const isSending = this.#wide === null || this.#wide.spreader.isSendingOn(lane);
      const sendingXid = isSending && !reader.atBoundary && reader.headKnown ? reader.xid : null;
      if (!lane.tick(stallLimitTicks, sendingXid, this.#host.unacknowledgedBytes)) continue;
      this.#host.stalled(lane.upstream.facts, this.state);
      this.#end('stalled', null);
      return;
    }
    this.#listenWhileStuck();
    if (this.#lanes.length > 0 && this.#leaving === null && this.#parsing) this.#considerScale();
  }

  /** Only while it is read from do we hear that an NFS client has gone: read on when the mount target takes nothing. */
  #listenWhileStuck(): void {
    if (this.#wide !== null) return;
    const isStuck = this.#up.paused && this.#bytesUp === this.#bytesUpBefore;
    this.#bytesUpBefore = this.#bytesUp;
    if (isStuck) this.#up.setMark(markBytes);
    else if (!this.#up.paused && this.#up.heldBytes === 0) this.#up.setMark(upMarkBytes);
  }

  /** Ends the session at the next moment at which nothing of it is under way. */
  leave(cause: SessionEnd): void {
    this.#leaving ??= cause;
    this.#leaveIfQuiet();
  }

  /** Takes no further requests, so that a session that leaves comes to a moment at which nothing is under way. */
  drain(): void {
    this.#draining = true;
    this.#leaveIfQuiet();
  }

  /** Destroys both sides. */
  destroy(cause: SessionEnd): void {
    this.#end(cause, null);
  }

  async #dial(): Promise<void> {
    for (let attempt = 1; !this.#over; attempt++) {
      try {
        this.#join(await this.#host.connect(this.#dialling.signal));
        return;
      } catch (thrown) {
        if (this.#over) return;
        const error = asAgentError(thrown);
        this.#host.dialFailed(error, error.code === this.#lastFailure?.code);
        this.#lastFailure = error;
        // Nobody is left who could want an answer, and no answer would reach a client that has gone.
        if (this.#local.readableEnded) {
          this.#end('upstream-unreachable', error);
          return;
        }
        this.#host.wantEndpoints();
        const delayMs = planDelayMs(attempt, this.#host.random());
        // An abort is no failure: the loop sees that the session is over.
        await wait(delayMs, undefined, { signal: this.#dialling.signal }).catch(() => {});
      }
    }
  }

  #join(upstreams: readonly Upstream[]): void {
    if (this.#over) {
      for (const { socket } of upstreams) socket.destroy();
      return;
    }
    this.#addLanes(upstreams);
    if (this.#over) return;
    this.#host.connected(upstreams[0]!.facts);
    const early = this.#early;
    this.#early = [];
    this.#earlyBytes = 0;
    for (const chunk of early) this.#carryUp(chunk);
    this.#sentUp();
    if (this.#local.readableEnded) for (const lane of this.#lanes) lane.end();
  }

  #addLanes(upstreams: readonly Upstream[]): void {
    const first = this.#lanes[0] ?? null;
    this.#lanes = [
      ...this.#lanes,
      ...upstreams.map((upstream) => new Lane(upstream, this.#host.slabs, this.#sentUp)),
    ];
    if (this.#lanes.length > 1) this.#makeWide(first);
    for (const lane of this.#lanes) {
      if (lane === first) continue;
      const { socket } = lane;
      socket.on('end', () => this.#upstreamEnded());
      socket.on('error', (error: NodeJS.ErrnoException) => {
        const silent =
          error.code === 'ETIMEDOUT' || error.code === 'EHOSTUNREACH' || error.code === 'ENETUNREACH';
        this.#end(silent ? 'upstream-unreachable' : 'upstream-reset', error);
      });
      socket.on('close', () => this.#closedLeg(socket, 'upstream-reset'));
      lane.upstream.readInto(
        (bytes) => this.#receiveDown(lane, bytes),
        () => this.#lendRoom(lane),
      );
      if (this.#down.paused) lane.pause('client');
    }
    if (this.#lanes.some(({ socket }) => socket.destroyed || socket.readableEnded)) {
      this.#end('upstream-reset', null);
    }
  }

  #makeWide(first: Lane | null): void {
    this.#gatherer.abandonRoom();
    for (const lane of this.#lanes) {
      const flow = this.#host.budget.openFlow(markBytes, {
        pause: () => lane.pause('other-lanes'),
        resume: () => lane.resume('other-lanes'),
      });
      lane.waiting = { chunks: [], flow };
    }
    this.#up.setMark(markBytes * this.#lanes.length);
    this.#wide = {
      spreader: new Spreader(this.#lanes, this.#reader, this.#reader.atBoundary ? null : first),
      merger: new Merger(this.#lanes, first === null || first.reader.atBoundary ? null : first, (bytes) =>
        this.#gatherer.add(bytes),
      ),
    };
  }

  #considerScale(): void {
    const scaling = this.#host.scaling();
    if (scaling === null || this.#searching) return;
    const [next, action] = decideScale(this.#scale, {
      ...scaling,
      nowTick: this.#host.nowTick(),
      bytes: this.#bytesUp + this.#bytesDown,
      connections: this.#lanes.length,
    });
    this.#scale = next;
    if (action === 'narrow') this.leave('narrowed');
    else if (action === 'widen') void this.#widen();
  }

  async #widen(): Promise<void> {
    this.#searching = true;
    try {
      const upstreams = await this.#host.widen(this.#dialling.signal);
      const isWanted =
        !this.#over &&
        this.#leaving === null &&
        this.#parsing &&
        this.#firstEnd === null &&
        upstreams.length > 0;
      if (!isWanted) {
        for (const { socket } of upstreams) socket.destroy();
        return;
      }
      this.#addLanes(upstreams);
      if (!this.#over) this.#host.widened(this.#lanes.length);
    } catch {
      // The session is over: that is the only way in which a search fails.
    } finally {
      this.#searching = false;
    }
  }

  #sendUp(chunk: Uint8Array): void {
    // It will send again, on its next connection, what it sends while we leave.
    if (this.#left !== null) return;
    this.#host.stir();
    if (this.#lanes.length === 0) {
      this.#bytesUp += chunk.length;
      this.#early.push(Buffer.from(chunk));
      this.#earlyBytes += chunk.length;
    } else {
      this.#bytesUp += this.#carryUp(chunk);
    }
    this.#sentUp();
  }

  /** Says how many bytes it has taken. */
  #carryUp(chunk: Uint8Array): number {
    const carriedBytes =
      this.#wide === null
        ? this.#carryUpSingle(this.#lanes[0]!, chunk)
        : this.#carryUpWide(this.#wide, chunk);
    if (this.#leaving !== null) this.#leaveIfQuiet();
    return carriedBytes;
  }

  #carryUpSingle(lane: Lane, chunk: Uint8Array): number {
    const reader = this.#reader;
    let at = 0;
    while (at < chunk.length && this.#parsing && !(this.#draining && reader.atBoundary)) {
      at = reader.advance(chunk, at);
      if (reader.lost) this.#giveUpParsing(lane);
      else if (reader.headIsNew) lane.ledger.sending(reader.xid, reader.isCall, this.#host.nowTick());
    }
    const carriedBytes = this.#parsing ? at : chunk.length;
    if (carriedBytes > 0) {
      lane.send(carriedBytes === chunk.length ? chunk : chunk.subarray(0, carriedBytes));
    }
    return carriedBytes;
  }

  #carryUpWide({ spreader }: { spreader: Spreader }, chunk: Uint8Array): number {
    const carriedBytes = spreader.send(chunk, this.#host.nowTick(), this.#draining);
    if (this.#reader.lost) this.#endUnparsed();
    return carriedBytes;
  }

  readonly #sentUp = (): void => {
    let heldBytes = this.#earlyBytes;
    for (const lane of this.#lanes) heldBytes += lane.heldBytes;
    this.#up.hold(heldBytes);
  };

  #receiveDown(lane: Lane, bytes: Uint8Array): boolean {
    if (this.#over || this.#left !== null) return false;
    this.#host.stir();
    if (this.#bytesDown === 0) this.#host.answered();
    this.#bytesDown += bytes.length;
    lane.receivedBytes += bytes.length;
    if (this.#wide === null) {
      for (let at = 0; at < bytes.length && this.#parsing; ) {
        at = lane.note(bytes, at);
        if (lane.reader.lost) this.#giveUpParsing(lane);
      }
      const isLast = this.#parsing && lane.reader.atBoundary && lane.ledger.unanswered === 0;
      this.#gatherer.add(bytes, !isLast);
    } else {
      this.#wide.merger.receive(lane, bytes);
      if (lane.reader.lost) {
        this.#endUnparsed();
        return false;
      }
    }
    this.#down.hold(this.#gatherer.heldBytes);
    if (this.#leaving !== null) this.#leaveIfQuiet();
    return !lane.paused;
  }

  /** The rest of a record need not be copied. Between records none is lent: a session that moves nothing owns no memory. */
  #lendRoom(lane: Lane): Uint8Array | null {
    if (this.#wide === null && this.#parsing && !this.#over && !lane.reader.atBoundary) {
      return this.#gatherer.lendRoom();
    }
    this.#gatherer.takeRoomBack();
    return null;
  }

  #giveUpParsing(lane: Lane): void {
    this.#parsing = false;
    lane.ledger.forgetAll();
    this.#host.unparsed();
  }

  /** What is no record cannot be shared out. */
  #endUnparsed(): void {
    this.#host.unparsed();
    this.#end('upstream-reset', null);
  }

  /** Nothing is lost or done twice: no request is unanswered, and no record half through in either direction. */
  #leaveIfQuiet(): void {
    const cause = this.#leaving;
    if (cause === null || this.#over || this.#left !== null) return;
    if (this.#lanes.length === 0) {
      // Nothing of it has reached a mount target.
      this.#end(cause, null);
      return;
    }
    if (!this.#parsing || !this.#reader.atBoundary || this.#gatherer.heldBytes > 0) return;
    if (!this.#lanes.every((lane) => lane.isQuiet)) return;
    this.#left = setTimeout(() => this.#end(cause, null), leaveMs);
    for (const lane of this.#lanes) lane.end();
    this.#inlet.resume();
    this.#local.end();
  }

  #localEnded(): void {
    if (this.#over || this.#left !== null) return;
    this.#firstEnd ??= 'local-end';
    if (this.#lanes.length > 0) for (const lane of this.#lanes) lane.end();
    // A port probe, or a client that has given up: there is nothing to deliver, or nobody to wait with.
    else if (this.#earlyBytes === 0 || this.#lastFailure !== null)
      this.#end(this.#endWithoutUpstream(), null);
  }

  #upstreamEnded(): void {
    if (this.#left !== null) return;
    if (this.#wide !== null && this.#firstEnd === null) {
      this.#end('upstream-end', null);
      return;
    }
    this.#firstEnd ??= 'upstream-end';
    if (!this.#lanes.every(({ socket }) => socket.readableEnded)) return;
    this.#gatherer.flush();
    this.#local.end();
  }

  #endWithoutUpstream(): SessionEnd {
    return this.#lastFailure === null ? 'local-end' : 'upstream-unreachable';
  }

  /** A side that closes before both its directions have ended is broken; a whole one waits for the other. */
  #closedLeg(leg: Socket, brokenAs: SessionEnd): void {
    if (this.#left !== null) {
      if (leg === this.#local) this.#end(brokenAs, null);
    } else if (!leg.readableEnded || !leg.writableFinished) this.#end(brokenAs, null);
    else if (this.#local.closed && this.#lanes.every(({ socket }) => socket.closed)) {
      this.#end(this.#firstEnd ?? brokenAs, null);
    }
  }

  #end(brokenAs: SessionEnd, error: Error | null): void {
    if (this.#over) return;
    this.#over = true;
    const left = this.#left !== null;
    const cause = left ? (this.#leaving ?? brokenAs) : brokenAs;
    if (this.#left !== null) clearTimeout(this.#left);
    this.#dialling.abort();
    if (!this.#local.destroyed) {
      if (left || cause === 'local-end') this.#local.destroy();
      else this.#local.resetAndDestroy();
    }
    for (const { socket, waiting } of this.#lanes) {
      socket.destroy();
      waiting?.flow.close();
    }
    this.#early = [];
    this.#up.close();
    this.#down.close();
    this.#host.closed(cause, this.counters, error === null ? null : codeOf(error));
  }
}

const nothing = Buffer.alloc(0);

/**
 * Calls `ended` unless the socket that has ended was in fact reset; then its 'error' event follows.
 *
 * libuv reports a reset that arrives together with data as end-of-stream. Writing nothing makes the
 * kernel say which it was. A write that is waiting already will say so itself. (On the TLS side node drops
 * that answer; there the NFS client sees an end, which makes it reconnect as well.)
 */
function afterEnd(socket: Socket, heldBytes: number, ended: () => void): void {
  if (!socket.writable || heldBytes > 0) ended();
  else
    socket.write(nothing, (error) => {
      if (error === null || error === undefined) ended();
    });
}

function codeOf(error: NodeJS.ErrnoException): string {
  return error.code ?? error.message;
}
