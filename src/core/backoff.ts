const firstDelayMs = 100;
const longestDelayMs = 10_000;

/**
 * Says how long to wait before the next try: doubling from 100 ms to a cap of 10 s, of which the
 * upper half is random so that tunnels that failed together do not come back together.
 *
 * @param attempt how many tries have failed so far, from 1.
 * @param random a number in [0, 1).
 *
 * Units: milliseconds. Errors: none; an attempt below 1 counts as 1.
 * Source: our choice: a mount target that fails over is back within seconds, and the kernel's own
 * reconnect starts at 3 s.
 */
export function planDelayMs(attempt: number, random: number): number {
  const doublings = Math.max(0, Math.floor(attempt) - 1);
  const ceilingMs = Math.min(longestDelayMs, firstDelayMs * 2 ** doublings);
  return Math.round((ceilingMs / 2) * (1 + random));
}
