/** What a flow stops when it holds too many bytes, and starts again when they are gone. */
export interface FlowSource {
  pause(): void;
  resume(): void;
}

/**
 * The bytes that all sessions of a worker may hold together, and one mark for each flow.
 *
 * A flow is one direction of one session. A flow above its own mark stops reading. When all flows
 * together are above the limit, the ones that hold most stop reading, one at each further read, until
 * a quarter of the limit is free again. A flow that holds nothing may always read: sessions whose
 * peers are slow cannot stop a session whose peers are quick.
 *
 * Units: bytes. The limit can be exceeded by what one read brings, once for each flow.
 */
export class Budget {
  readonly #limitBytes: number;
  readonly #flows = new Set<Flow>();
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

  openFlow(markBytes: number, source: FlowSource): Flow {
    const flow = new Flow(this, markBytes, source);
    this.#flows.add(flow);
    return flow;
  }

  /** Called by flows only. */
  account(deltaBytes: number): void {
    this.#heldBytes += deltaBytes;
    if (deltaBytes > 0 && (this.#exceeded || this.#heldBytes > this.#limitBytes)) {
      this.#exceeded = true;
      this.#largestReading()?.pause();
    } else if (this.#exceeded && this.#heldBytes <= this.#limitBytes * 0.75) {
      this.#exceeded = false;
      for (const flow of this.#flows) flow.resumeIfAllowed();
    }
  }

  /** Called by flows only. */
  forget(flow: Flow): void {
    this.#flows.delete(flow);
  }

  #largestReading(): Flow | undefined {
    let largest: Flow | undefined;
    for (const flow of this.#flows) {
      if (!flow.paused && flow.heldBytes > (largest?.heldBytes ?? 0)) largest = flow;
    }
    return largest;
  }
}

/** One direction of one session: how much it holds, and whether it may read. */
export class Flow {
  readonly #budget: Budget;
  #markBytes: number;
  readonly #source: FlowSource;
  #heldBytes = 0;
  #paused = false;
  #closed = false;

  constructor(budget: Budget, markBytes: number, source: FlowSource) {
    this.#budget = budget;
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
    this.#budget.account(deltaBytes);
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
    if (this.#budget.exceeded && this.#heldBytes > 0) return;
    this.#paused = false;
    this.#source.resume();
  }

  /** Gives all its bytes back; the source is not touched any more. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#budget.forget(this);
    this.#budget.account(-this.#heldBytes);
    this.#heldBytes = 0;
  }
}
