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
