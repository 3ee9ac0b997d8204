import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Pace } from '../../src/target/pace.ts';

test('whoever waits as told carries no more than the limit and one burst', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 100_000 }), { minLength: 1 }),
      fc.integer({ min: 1_000, max: 1_000_000 }),
      (sizes, limit) => {
        let nowMs = 0;
        const pace = new Pace(limit, () => nowMs);
        let carried = 0;
        for (const size of sizes) {
          carried += size;
          nowMs += pace.take(size);

          // After the wait: what was carried, less the burst, fits the time.
          expect(carried - limit / 20).toBeLessThanOrEqual((limit * nowMs) / 1_000 + 1);
        }
      },
    ),
  );
});

test('a pause earns one burst, not more', () => {
  let nowMs = 0;
  const pace = new Pace(1_000, () => nowMs);
  nowMs = 1_000_000;

  expect(pace.take(50)).toBe(0);
  expect(pace.take(100)).toBeCloseTo(100);
});
