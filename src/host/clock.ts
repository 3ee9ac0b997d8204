import type { Clock } from '../core/ports.ts';

/** The machine's clocks. */
export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monoMs: () => performance.now(),
  schedule(delayMs, run) {
    const timer = setTimeout(run, Math.min(delayMs, longestTimerMs));
    timer.unref();
    return { cancel: () => clearTimeout(timer) };
  },
};

/** Node fires a timer above 2^31-1 ms at once. */
const longestTimerMs = 2_147_483_647;
