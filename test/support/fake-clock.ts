import type { Clock } from '../../src/core/ports.ts';

/** A clock that moves when it is told to. */
export class FakeClock implements Clock {
  #wallMs: number;
  #monoMs = 0;
  readonly #timers = new Set<{ dueMonoMs: number; run: () => void }>();

  constructor(wallMs: number) {
    this.#wallMs = wallMs;
  }

  nowMs(): number {
    return this.#wallMs;
  }

  monoMs(): number {
    return this.#monoMs;
  }

  schedule(delayMs: number, run: () => void): { cancel(): void } {
    const timer = { dueMonoMs: this.#monoMs + delayMs, run };
    this.#timers.add(timer);
    return { cancel: () => void this.#timers.delete(timer) };
  }

  /** The administrator sets the time; no timer notices. */
  set(byMs: number): void {
    this.#wallMs += byMs;
  }

  /** Time passes; what is due runs in its order, and what that started and needs no time has ended before this does. */
  async pass(durationMs: number): Promise<void> {
    const endMonoMs = this.#monoMs + durationMs;
    for (;;) {
      const next = [...this.#timers].sort((one, other) => one.dueMonoMs - other.dueMonoMs)[0];
      if (next === undefined || next.dueMonoMs > endMonoMs) break;
      this.#move(next.dueMonoMs);
      this.#timers.delete(next);
      next.run();
      await settle();
    }
    this.#move(endMonoMs);
    await settle();
  }

  #move(toMonoMs: number): void {
    const byMs = Math.max(0, toMonoMs - this.#monoMs);
    this.#monoMs += byMs;
    this.#wallMs += byMs;
  }
}

const settle = () => new Promise((resolve) => setImmediate(resolve));
