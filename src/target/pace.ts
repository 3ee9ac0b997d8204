/** A token bucket: how fast one client connection may go. */
export class Pace {
  readonly #bytesPerSecond: number;
  readonly #burstBytes: number;
  readonly #nowMs: () => number;
  #filledAtMs: number;
  #tokens: number;

  /**
   * @param nowMs monotonic.
   *
   * Units: bytes per second; up to a twentieth of a second's worth goes at once.
   */
  constructor(bytesPerSecond: number, nowMs: () => number) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#burstBytes = bytesPerSecond / 20;
    this.#nowMs = nowMs;
    this.#filledAtMs = nowMs();
    this.#tokens = this.#burstBytes;
  }

  /** Takes note of bytes that have passed; says how many milliseconds to wait before the next ones. */
  take(bytes: number): number {
    const nowMs = this.#nowMs();
    const filled = this.#tokens + ((nowMs - this.#filledAtMs) * this.#bytesPerSecond) / 1_000;
    this.#filledAtMs = nowMs;
    this.#tokens = Math.min(this.#burstBytes, filled) - bytes;
    return this.#tokens >= 0 ? 0 : (-this.#tokens * 1_000) / this.#bytesPerSecond;
  }
}
