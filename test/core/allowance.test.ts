import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Allowance } from '../../src/core/allowance.ts';

test('ten seconds may be spent at once, then as much as time brings', () => {
  const allowance = new Allowance(100, 0);

  expect(allowance.spend(1_000, 0)).toBe(true);
  expect(allowance.spend(1, 0)).toBe(false);
  expect(allowance.spend(99, 1_000)).toBe(true);
  expect(allowance.spend(1, 1_000)).toBe(false);
  expect(allowance.spend(1_000, 60_000)).toBe(true);
});

test('over any time, no more is spent than ten seconds and that time are worth', () => {
  const steps = fc.array(fc.record({ amount: fc.nat(500), afterMs: fc.nat(2_000) }), { maxLength: 200 });
  fc.assert(
    fc.property(steps, (taken) => {
      const allowance = new Allowance(100, 0);
      let nowMs = 0;
      let spent = 0;
      for (const { amount, afterMs } of taken) {
        nowMs += afterMs;
        if (allowance.spend(amount, nowMs)) spent += amount;
      }

      expect(spent).toBeLessThanOrEqual(1_000 + nowMs / 10);
    }),
  );
});
