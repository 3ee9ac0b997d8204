/** What a flow stops when it holds too many bytes, and starts again when they are gone. */
export interface FlowSource {
  pause(): void;
  resume(): void;
}

/**
 * The bytes that all sessions of a worker may hold together, and one mark for each flow.
 *
 * A flow is one direction of one session; the flows of a tunnel share a share. A flow above its own mark stops reading. When
 * all flows together are above the limit, of the share that holds most the flow that holds most stops reading, one at each
 * further read, until a quarter of the limit is free again: a mount with many connections does not stop one with a single
 * connection. A flow that holds nothing may always read: sessions whose peers are slow cannot stop a session whose
 * peers are quick.
 *
 * Units: bytes. The limit can be exceeded by what one read brings, once for each flow.
 */
export class Budget {
  readonly #limitBytes: number;
  readonly #shares = new Set<BudgetShare>();
  #heldBytes = 0;
  #exceeded = false;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  /** All bytes that were read and not yet handed to the kernel. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  get exceeded(): boolean {
    return this.#exceeded;
  }

  /** For the flows of one tunnel; it counts while it has any. */
  openShare(): BudgetShare {
    return new BudgetShare(this);
  }

  /** Called by shares only. */
  account(deltaBytes: number): void {
    this.#heldBytes += deltaBytes;
    if (deltaBytes > 0 && (this.#exceeded || this.#heldBytes > this.#limitBytes)) {
      this.#exceeded = true;
      this.#largestReading()?.pause();
    } else if (this.#exceeded && this.#heldBytes <= this.#limitBytes * 0.75) {
      this.#exceeded = false;
      for (const share of this.#shares) share.resumeAllowed();
    }
  }

  /** Called by shares only. */
  keep(share: BudgetShare): void {
    this.#shares.add(share);
  }

  /** Called by shares only. */
  forget(share: BudgetShare): void {
    this.#shares.delete(share);
  }

  #largestReading(): Flow | null {
    let largest: Flow | null = null;
    let mostBytes = 0;
    for (const share of this.#shares) {
      if (share.heldBytes <= mostBytes) continue;
      const flow = share.largestReading();
      if (flow === null) continue;
      largest = flow;
      mostBytes = share.heldBytes;
    }
    return largest;
  }
}

/** The flows of one tunnel. */
export class BudgetShare {
  readonly #budget: Budget;
  readonly #flows = new Set<Flow>();
  #heldBytes = 0;

  constructor(budget: Budget) {
    this.#budget = budget;
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  get exceeded(): boolean {
    return this.#budget.exceeded;
  }

  openFlow(markBytes: number, source: FlowSource): Flow {
    const flow = new Flow(this, markBytes, source);
    this.#flows.add(flow);
    this.#budget.keep(this);
    return flow;
  }

  /** Called by flows only. */
  account(deltaBytes: number): void {
    this.#heldBytes += deltaBytes;
    this.#budget.account(deltaBytes);
  }

  /** Called by flows only. */
  forget(flow: Flow): void {
    this.#flows.delete(flow);
    if (this.#flows.size === 0) this.#budget.forget(this);
  }

  /** Called by the budget only. */
  resumeAllowed(): void {
    for (const flow of this.#flows) flow.resumeIfAllowed();
  }

  /** Called by the budget only: the flow that holds most of those that read and hold anything. */
  largestReading(): Flow | null {
    let largest: Flow | null = null;
    for (const flow of this.#flows) {
      if (!flow.paused && flow.heldBytes > (largest?.heldBytes ?? 0)) largest = flow;
    }
    return largest;
  }
}

/** One direction of one session: how much it holds, and whether it may read. */
export class Flow {
  readonly #share: BudgetShare;
  #markBytes: number;
  readonly #source: FlowSource;
  #heldBytes = 0;
  #paused = false;
  #closed = false;

  constructor(share: BudgetShare, markBytes: number, source: FlowSource) {
    this.#share = share;
    this.#markBytes = markBytes;
    this.#source = source;
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  get paused(): boolean {
    return this.#paused;
  }

  /** From now on the flow may hold this much. */
  setMark(markBytes: number): void {
    if (markBytes === this.#markBytes) return;
    this.#markBytes = markBytes;
    this.resumeIfAllowed();
  }

  /** States how many bytes the flow holds now; pauses or resumes its source accordingly. */
  hold(heldBytes: number): void {
    const deltaBytes = heldBytes - this.#heldBytes;
    if (deltaBytes === 0 || this.#closed) return;
    this.#heldBytes = heldBytes;
    if (heldBytes > this.#markBytes) this.pause();
    this.#share.account(deltaBytes);
    if (deltaBytes < 0) this.resumeIfAllowed();
  }

  pause(): void {
    if (this.#paused || this.#closed) return;
    this.#paused = true;
    this.#source.pause();
  }

  resumeIfAllowed(): void {
    if (!this.#paused || this.#closed) return;
    if (this.#heldBytes > this.#markBytes / 2) return;
    if (this.#share.exceeded && this.#heldBytes > 0) return;
    this.#paused = false;
    this.#source.resume();
  }

  /** Gives all its bytes back; the source is not touched any more. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#share.account(-this.#heldBytes);
    this.#share.forget(this);
    this.#heldBytes = 0;
  }
}
