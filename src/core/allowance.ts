/** What may be spent in one go, in seconds' worth. */
const burstSeconds = 10;

/** How much somebody may spend: so much a second, and ten times that at once. */
export class Allowance {
  readonly #perSecond: number;
  #left: number;
  #countedMonoMs: number;

  /** @param perSecond in whatever unit is spent. */
  constructor(perSecond: number, nowMonoMs: number) {
    this.#perSecond = perSecond;
    this.#left = perSecond * burstSeconds;
    this.#countedMonoMs = nowMonoMs;
  }

  /** False when it is more than there is. */
  spend(amount: number, nowMonoMs: number): boolean {
    const earned = ((nowMonoMs - this.#countedMonoMs) / 1_000) * this.#perSecond;
    this.#left = Math.min(this.#perSecond * burstSeconds, this.#left + earned) - amount;
    this.#countedMonoMs = nowMonoMs;
    return this.#left >= 0;
  }
}
