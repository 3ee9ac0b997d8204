import { tickMs } from './stall.ts';
import type { SessionCounters, TunnelState } from './worker-protocol.ts';

/** What the worker last said of a tunnel, and when; a worker that has nothing new to say may say nothing. */
export interface Traffic extends SessionCounters {
  /** Monotonic milliseconds. */
  atMonoMs: number;
  bytesUpPerSecond: number;
  bytesDownPerSecond: number;
  /** TLS connections to the mount target. */
  connections: number;
  requestsInFlight: number;
  /** Age of the oldest of them at that time. */
  oldestRequestMs: number;
  /** A session has no connection to the mount target. */
  isDialling: boolean;
}

export const noTraffic: Traffic = {
  bytesUp: 0,
  bytesDown: 0,
  atMonoMs: Number.NEGATIVE_INFINITY,
  bytesUpPerSecond: 0,
  bytesDownPerSecond: 0,
  connections: 0,
  requestsInFlight: 0,
  oldestRequestMs: 0,
  isDialling: false,
};

/** Reports come once a tick; after so long without one nothing has moved, or the worker hangs. */
const freshMs = 2.5 * tickMs;
/** Two reports that arrive together, because this process was busy, say nothing about a rate. */
const shortestMs = tickMs / 4;
/** An unanswered request of this age is worth a word; a healthy mount target answers within a fraction of it. */
const stalledAfterMs = 5_000;

/** Takes the worker's next report of a tunnel. Units: monotonic milliseconds. Errors: none. */
export function noteTraffic(before: Traffic, report: TunnelState, nowMonoMs: number): Traffic {
  const { open, bytesUp, bytesDown } = report;
  // After a silence the counters were the same until a tick ago.
  const silenceMs = nowMonoMs - before.atMonoMs;
  const elapsedMs = silenceMs > freshMs ? tickMs : silenceMs;
  const isTooSoon = elapsedMs < shortestMs;
  const rate = (key: keyof SessionCounters) =>
    isTooSoon
      ? before[`${key}PerSecond`]
      : Math.max(0, Math.round(((report[key] - before[key]) * 1_000) / elapsedMs));
  return {
    bytesUp,
    bytesDown,
    atMonoMs: nowMonoMs,
    bytesUpPerSecond: rate('bytesUp'),
    bytesDownPerSecond: rate('bytesDown'),
    connections: open.reduce((sum, session) => sum + session.connections, 0),
    requestsInFlight: open.reduce((sum, session) => sum + session.inFlight, 0),
    oldestRequestMs: open.reduce((most, session) => Math.max(most, session.oldestMs), 0),
    isDialling: open.some((session) => session.connections === 0),
  };
}

/** The traffic as it is now: rates end with the reports, and a request that is unanswered grows older without one. */
export function readTraffic(last: Traffic, nowMonoMs: number): Omit<Traffic, 'atMonoMs'> {
  const { atMonoMs, ...traffic } = last;
  const ageMs = nowMonoMs - atMonoMs;
  const isFresh = ageMs <= freshMs;
  return {
    ...traffic,
    bytesUpPerSecond: isFresh ? traffic.bytesUpPerSecond : 0,
    bytesDownPerSecond: isFresh ? traffic.bytesDownPerSecond : 0,
    oldestRequestMs: traffic.requestsInFlight === 0 ? 0 : Math.round(traffic.oldestRequestMs + ageMs),
  };
}

/** How a mount that is there fares. `waiting` are connections of the kernel that no worker has taken yet. */
export function decideCondition(
  traffic: Pick<Traffic, 'isDialling' | 'oldestRequestMs'>,
  waiting: number,
): 'fine' | 'reconnecting' | 'stalled' {
  if (traffic.isDialling || waiting > 0) return 'reconnecting';
  return traffic.oldestRequestMs >= stalledAfterMs ? 'stalled' : 'fine';
}
