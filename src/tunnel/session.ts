import type { Socket } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';
import { planDelayMs } from '../core/backoff.ts';
import { type AgentError, asAgentError } from '../core/errors.ts';
import type { SessionCounters, SessionEnd, UpstreamFacts } from '../core/worker-protocol.ts';
import type { Budget, Flow } from './budget.ts';
import type { Upstream } from './dial.ts';
import { Gatherer, type SlabPool } from './gather.ts';

/** What one direction of a session may hold before its source stops reading; measured in docs/decisions/0003. */
const markBytes = 1024 * 1024;
const keepAliveMs = 15_000;

/** What a session asks of its tunnel, and tells it. */
export interface SessionHost {
  budget: Budget;
  slabs: SlabPool;
  random: () => number;
  /** A connection to the mount target: the warm one, or a new one. Errors: those of `dialUpstream`. */
  connect(signal: AbortSignal): Promise<Upstream>;
  /** The session will dial again soon: fresh addresses are welcome. */
  wantEndpoints(): void;
  /** A try to connect has failed. `again` is false when the one before failed with the same code. */
  dialFailed(error: AgentError, again: boolean): void;
  connected(facts: UpstreamFacts): void;
  closed(cause: SessionEnd, counters: SessionCounters, error: string | null): void;
}

/**
 * Joins one local stream to one TLS connection, and carries bytes until either ends.
 *
 * End-of-stream on one side is passed on as half-close and the other direction goes on. An error on
 * either side destroys both; the local socket is then reset, so that the kernel reconnects at once.
 * While no connection to the mount target can be made, the local stream is held and dialling repeated.
 *
 * The two places where a session may later be watched or widened are `#sendUp`, which sees every byte from
 * the NFS client in order, and `#receiveDown`, which sees every byte to it.
 */
export class Session {
  readonly #local: Socket;
  readonly #host: SessionHost;
  readonly #dialling = new AbortController();
  readonly #gatherer: Gatherer;
  readonly #up: Flow;
  readonly #down: Flow;
  #upstream: Upstream | null = null;
  /** What the NFS client sent before there was an upstream. */
  #early: Buffer[] = [];
  #earlyBytes = 0;
  #lastFailure: AgentError | null = null;
  #firstEnd: SessionEnd | null = null;
  #bytesUp = 0;
  #bytesDown = 0;
  #over = false;

  constructor(local: Socket, host: SessionHost) {
    this.#local = local;
    this.#host = host;
    this.#gatherer = new Gatherer(local, host.slabs, () => this.#down.hold(this.#gatherer.heldBytes));
    this.#up = host.budget.openFlow(markBytes, {
      pause: () => this.#local.pause(),
      resume: () => this.#local.resume(),
    });
    this.#down = host.budget.openFlow(markBytes, {
      pause: () => this.#upstream?.socket.pause(),
      resume: () => this.#upstream?.socket.resume(),
    });

    local.allowHalfOpen = true;
    local.setNoDelay(true);
    local.setKeepAlive(true, keepAliveMs);
    local.on('data', (chunk: Buffer) => this.#sendUp(chunk));
    local.on('end', () => afterEnd(local, () => this.#localEnded()));
    local.on('error', (error) => this.#end('local-reset', error));
    local.on('close', () => this.#closedLeg(local, 'local-reset'));
    void this.#dial();
  }

  get counters(): SessionCounters {
    return { bytesUp: this.#bytesUp, bytesDown: this.#bytesDown };
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

  #join(upstream: Upstream): void {
    const { socket } = upstream;
    if (this.#over) {
      socket.destroy();
      return;
    }
    this.#upstream = upstream;
    socket.on('end', () => this.#upstreamEnded());
    socket.on('error', (error: NodeJS.ErrnoException) => {
      const silent =
        error.code === 'ETIMEDOUT' || error.code === 'EHOSTUNREACH' || error.code === 'ENETUNREACH';
      this.#end(silent ? 'upstream-unreachable' : 'upstream-reset', error);
    });
    socket.on('close', () => this.#closedLeg(socket, 'upstream-reset'));
    if (socket.destroyed || socket.readableEnded) {
      this.#end('upstream-reset', null);
      return;
    }
    upstream.readInto((bytes) => this.#receiveDown(bytes));
    this.#host.connected(upstream.facts);
    const early = this.#early;
    this.#early = [];
    this.#earlyBytes = 0;
    for (const chunk of early) socket.write(chunk, this.#sentUp);
    this.#sentUp();
    if (this.#local.readableEnded) socket.end();
  }

  #sendUp(chunk: Buffer): void {
    this.#bytesUp += chunk.length;
    if (this.#upstream === null) {
      this.#early.push(chunk);
      this.#earlyBytes += chunk.length;
    } else if (this.#upstream.socket.writable) {
      this.#upstream.socket.write(chunk, this.#sentUp);
    }
    this.#sentUp();
  }

  readonly #sentUp = (): void => {
    this.#up.hold(this.#earlyBytes + (this.#upstream?.socket.writableLength ?? 0));
  };

  #receiveDown(bytes: Uint8Array): boolean {
    if (this.#over) return false;
    this.#bytesDown += bytes.length;
    this.#gatherer.add(bytes);
    this.#down.hold(this.#gatherer.heldBytes);
    return !this.#down.paused;
  }

  #localEnded(): void {
    if (this.#over) return;
    this.#firstEnd ??= 'local-end';
    if (this.#upstream !== null) this.#upstream.socket.end();
    // A port probe, or a client that has given up: there is nothing to deliver, or nobody to wait with.
    else if (this.#earlyBytes === 0 || this.#lastFailure !== null)
      this.#end(this.#endWithoutUpstream(), null);
  }

  #upstreamEnded(): void {
    this.#firstEnd ??= 'upstream-end';
    this.#gatherer.flush();
    this.#local.end();
  }

  #endWithoutUpstream(): SessionEnd {
    return this.#lastFailure === null ? 'local-end' : 'upstream-unreachable';
  }

  /** A side that closes before both its directions have ended is broken; a whole one waits for the other. */
  #closedLeg(leg: Socket, brokenAs: SessionEnd): void {
    if (!leg.readableEnded || !leg.writableFinished) this.#end(brokenAs, null);
    else if (this.#local.closed && this.#upstream?.socket.closed === true) {
      this.#end(this.#firstEnd ?? brokenAs, null);
    }
  }

  #end(cause: SessionEnd, error: Error | null): void {
    if (this.#over) return;
    this.#over = true;
    this.#dialling.abort();
    if (!this.#local.destroyed) {
      if (cause === 'local-end') this.#local.destroy();
      else this.#local.resetAndDestroy();
    }
    this.#upstream?.socket.destroy();
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
function afterEnd(socket: Socket, ended: () => void): void {
  if (!socket.writable || socket.writableLength > 0) ended();
  else
    socket.write(nothing, (error) => {
      if (error === null || error === undefined) ended();
    });
}

function codeOf(error: NodeJS.ErrnoException): string {
  return error.code ?? error.message;
}
