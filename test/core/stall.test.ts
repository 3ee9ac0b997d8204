import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  decideStall,
  initialStallState,
  isSuspicious,
  orderEndpoints,
  planStallLimitTicks,
  type StallObservation,
} from '../../src/core/stall.ts';

const quiet: StallObservation = {
  owesAnswer: false,
  receivedBytes: 0,
  takenBytes: 0,
  backlogBytes: 0,
  unacknowledgedBytes: null,
  paused: false,
};

/**
 * At which observation, from 1, the connection counts as stalled; null = at none. As in a worker, what is not
 * acknowledged is known only when the kernel is asked.
 */
function stallsAt(observations: readonly StallObservation[], limitTicks: number): number | null {
  let state = initialStallState;
  for (const [index, observation] of observations.entries()) {
    const unacknowledgedBytes = isSuspicious(state, limitTicks) ? observation.unacknowledgedBytes : null;
    const [next, stalled] = decideStall(state, { ...observation, unacknowledgedBytes }, limitTicks);
    if (stalled) return index + 1;
    state = next;
  }
  return null;
}

const repeat = (observation: StallObservation, times: number) =>
  Array.from({ length: times }, () => observation);

test('an unanswered request without a byte received is a stall one tick after the limit', () => {
  expect(stallsAt(repeat({ ...quiet, owesAnswer: true }, 30), 20)).toBe(21);
});

test('an idle connection is never a stall', () => {
  expect(stallsAt(repeat({ ...quiet, receivedBytes: 500, takenBytes: 500 }, 1_000), 20)).toBeNull();
});

test('a slow answer is no stall while bytes come', () => {
  const slow = Array.from({ length: 1_000 }, (_, tick) => ({
    ...quiet,
    owesAnswer: true,
    receivedBytes: Math.floor(tick / 19),
  }));

  expect(stallsAt(slow, 20)).toBeNull();
});

test('bytes that wait for a full kernel buffer and do not move are a stall, requests or not', () => {
  expect(stallsAt(repeat({ ...quiet, takenBytes: 100, backlogBytes: 10 }, 30), 20)).toBe(21);
});

test('a request that waits in a large kernel buffer is no stall while the mount target acknowledges some of it', () => {
  const leaving = Array.from({ length: 1_000 }, (_, tick) => ({
    ...quiet,
    owesAnswer: true,
    takenBytes: 4_000_000,
    backlogBytes: 500_000,
    unacknowledgedBytes: 4_000_000 - tick * 1_000,
  }));

  expect(stallsAt(leaving, 20)).toBeNull();
});

test('a mount target that acknowledges in lumps, almost as far apart as the limit, is not taken for silent', () => {
  fc.assert(
    fc.property(fc.integer({ min: 3, max: 160 }), fc.nat(159), (limitTicks, phase) => {
      const lumpTicks = limitTicks - 1;
      const lumps = Array.from({ length: 1_000 }, (_, tick) => ({
        ...quiet,
        owesAnswer: true,
        takenBytes: 4_000_000,
        backlogBytes: 500_000,
        unacknowledgedBytes: 4_000_000 - Math.floor((tick + (phase % lumpTicks)) / lumpTicks) * 1_000,
      }));

      expect(stallsAt(lumps, limitTicks)).toBeNull();
    }),
  );
});

test('requests that the kernel takes and nobody acknowledges are a stall, however many are added', () => {
  const growing = Array.from({ length: 30 }, (_, tick) => ({
    ...quiet,
    owesAnswer: true,
    takenBytes: tick * 200,
    unacknowledgedBytes: tick * 200,
  }));

  expect(stallsAt(growing, 20)).toBe(21);
});

test('a large request that leaves slowly is no stall', () => {
  const leaving = Array.from({ length: 1_000 }, (_, tick) => ({
    ...quiet,
    owesAnswer: true,
    takenBytes: tick,
    backlogBytes: 5_000,
  }));

  expect(stallsAt(leaving, 20)).toBeNull();
});

test('requests that go into the kernel buffer of a silent connection do not count as movement', () => {
  const writing = Array.from({ length: 100 }, (_, tick) => ({
    ...quiet,
    owesAnswer: true,
    takenBytes: tick * 200,
  }));

  expect(stallsAt(writing, 20)).toBe(21);
});

test('a connection that we do not read from is not blamed', () => {
  expect(stallsAt(repeat({ ...quiet, owesAnswer: true, paused: true }, 100), 20)).toBeNull();
});

test('whatever it shows, a connection stalls only after more than the limit of ticks in which it owed and was silent', () => {
  const observation = fc.record({
    owesAnswer: fc.boolean(),
    receivedBytes: fc.nat(2),
    takenBytes: fc.nat(2),
    backlogBytes: fc.nat(1),
    unacknowledgedBytes: fc.option(fc.nat(2)),
    paused: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(observation, { maxLength: 60 }), fc.integer({ min: 0, max: 5 }), (seen, limit) => {
      const at = stallsAt(seen, limit);
      if (at === null) return;
      const silent = seen.slice(at - limit - 1, at);

      expect(silent).toHaveLength(limit + 1);
      for (const one of silent) {
        expect(one.owesAnswer || one.backlogBytes > 0).toBe(true);
        expect(one.paused).toBe(false);
        if (at > limit + 1) expect(one.receivedBytes).toBe(seen[at - limit - 2]!.receivedBytes);
      }
    }),
  );
});

test('each further stall in a row doubles the limit, three times at most', () => {
  expect([0, 1, 2, 3, 4, 100].map((stalls) => planStallLimitTicks(20, stalls))).toEqual([
    20, 40, 80, 160, 160, 160,
  ]);
});

test('addresses that went silent are dialled last, and none is lost', () => {
  const endpoints = fc.array(fc.record({ address: fc.constantFrom('a', 'b', 'c'), port: fc.nat(9) }));
  fc.assert(
    fc.property(endpoints, fc.subarray(['a', 'b', 'c']), (given, silentList) => {
      const silent = new Set(silentList);
      const ordered = orderEndpoints(given, ({ address }) => silent.has(address));

      expect([...ordered].sort(byText)).toEqual([...given].sort(byText));
      const firstSilent = ordered.findIndex(({ address }) => silent.has(address));
      if (firstSilent !== -1)
        expect(ordered.slice(firstSilent).every(({ address }) => silent.has(address))).toBe(true);
    }),
  );
});

function byText(one: object, other: object): number {
  return JSON.stringify(one) < JSON.stringify(other) ? -1 : 1;
}
