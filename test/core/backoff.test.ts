import fc from 'fast-check';
import { expect, test } from 'vitest';
import { planDelayMs } from '../../src/core/backoff.ts';

const fraction = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });

test('the first new try comes within a tenth of a second', () => {
  expect(planDelayMs(1, 0)).toBe(50);
  expect(planDelayMs(1, 0.999)).toBe(100);
});

test('the longest delay doubles from try to try until it reaches ten seconds', () => {
  const longest = [1, 2, 3, 4, 5, 6, 7, 8, 9].map((attempt) => planDelayMs(attempt, 0.99999));

  expect(longest).toEqual([100, 200, 400, 800, 1_600, 3_200, 6_400, 10_000, 10_000]);
});

test('every delay lies between 50 ms and 10 s and within the upper half of its ceiling', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1_000_000 }), fraction, (attempt, random) => {
      const delayMs = planDelayMs(attempt, random);
      const ceilingMs = Math.min(10_000, 100 * 2 ** (attempt - 1));

      expect(delayMs).toBeGreaterThanOrEqual(ceilingMs / 2);
      expect(delayMs).toBeLessThanOrEqual(ceilingMs);
    }),
  );
});

test('a later try never waits less than an earlier one with the same random number', () => {
  fc.assert(
    fc.property(fc.integer({ min: -5, max: 60 }), fraction, (attempt, random) => {
      expect(planDelayMs(attempt + 1, random)).toBeGreaterThanOrEqual(planDelayMs(attempt, random));
    }),
  );
});

test('five hundred sessions that lost their mount target together come back to it a few at a time', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1 }), fc.integer({ min: 5_000, max: 600_000 }), (seed, outageMs) => {
      const random = evenNumbers(seed);

      const comingBackMs = Array.from({ length: 500 }, () => {
        let atMs = 0;
        for (let attempt = 1; atMs < outageMs; attempt += 1) atMs += planDelayMs(attempt, random());
        return atMs;
      });

      const perTenth = new Map<number, number>();
      for (const atMs of comingBackMs)
        perTenth.set(Math.floor(atMs / 100), (perTenth.get(Math.floor(atMs / 100)) ?? 0) + 1);
      expect(Math.max(...perTenth.values())).toBeLessThan(70);
      expect(Math.max(...comingBackMs)).toBeLessThanOrEqual(outageMs + 10_000);
    }),
  );
});

/** Numbers in [0, 1), evenly spread, the same ones for a seed: those of a property test gather at the edges. */
function evenNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}
