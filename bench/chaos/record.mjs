// What the writers and readers tell: how long operations took and when, what was checked, what failed.

/** Follows the lines of all writers; times are those of this process's `performance.now()`. */
export function openRecord() {
  const threads = new Map();
  const complaints = [];
  /** Longest operations, as the lines gave them. */
  let operations = [];
  /** This clock minus the machine's, in milliseconds: the least that a line needed to come here. */
  let offsetMs = Number.POSITIVE_INFINITY;

  function onLine(mount, line) {
    const [kind, thread, ...words] = line.split(' ');
    if (kind !== 't') {
      complaints.push(`${mount} ${line}`);
      return;
    }
    const [now, lastStart, longestStart, longestUs, count, failed, checked, wrong] = words.map(Number);
    offsetMs = Math.min(offsetMs, performance.now() - now / 1000);
    const at = (us) => us / 1000 + offsetMs;
    const known = { lastStartMs: at(lastStart), count, failed, checked, wrong };
    threads.set(`${mount} ${thread}`, known);
    const tookMs = longestUs / 1000;
    if (longestUs > 0) operations.push({ mount, thread, startMs: at(longestStart), tookMs });
  }

  const sum = (field) => [...threads.values()].reduce((total, thread) => total + thread[field], 0);
  return {
    onLine,
    /** Totals since the start. */
    totals: () => ({
      operations: sum('count'),
      failed: sum('failed'),
      bytesChecked: sum('checked'),
      bytesWrong: sum('wrong'),
    }),
    /** Whether each of `count` threads has ended an operation that it began after this moment. */
    hasMovedSince: (ms, count) =>
      threads.size === count && [...threads.values()].every(({ lastStartMs }) => lastStartMs > ms),
    /** Threads that have ended none. */
    waitingSince: (ms) =>
      [...threads.entries()].filter(([, { lastStartMs }]) => lastStartMs <= ms).map(([name]) => name),
    /** The longest operations that ended after this moment, in milliseconds, longest first. Forgets what is older. */
    pausesSince(ms) {
      operations = operations.filter(({ startMs, tookMs }) => startMs + tookMs >= ms);
      return operations.map(({ tookMs }) => tookMs).sort((a, b) => b - a);
    },
    complaints,
  };
}
