import fc from 'fast-check';
import { expect, test } from 'vitest';
import { startPatience } from '../../src/core/patience.ts';
import { FakeClock } from '../support/fake-clock.ts';

function openPatience(limitMs: number) {
  const clock = new FakeClock(0);
  let over = false;
  const patience = startPatience(
    (delayMs, run) => clock.schedule(delayMs, run),
    limitMs,
    () => {
      over = true;
    },
  );
  return { clock, patience, isOver: () => over };
}

test('patience of a second is over after a second', async () => {
  const { clock, isOver } = openPatience(1_000);

  await clock.pass(999);
  expect(isOver()).toBe(false);
  await clock.pass(1);
  expect(isOver()).toBe(true);
});

test('patience that is cancelled is never over', async () => {
  const { clock, patience, isOver } = openPatience(1_000);

  await clock.pass(550);
  patience.cancel();
  await clock.pass(10_000);

  expect(isOver()).toBe(false);
});

test('a process that gets the processor only now and then has ten looks before anybody is blamed', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 100, max: 60_000 }), { minLength: 10, maxLength: 10 }), (gaps) => {
      let due: (() => void) | null = null;
      let over = false;
      const schedule = (_delayMs: number, run: () => void) => {
        due = run;
        return { cancel() {} };
      };
      startPatience(schedule, 1_000, () => {
        over = true;
      });

      // However late each look comes, it is one.
      for (const [index] of gaps.entries()) {
        expect(over).toBe(false);
        const run = due!;
        due = null;
        run();
        if (index < 9) expect(due).not.toBeNull();
      }
      expect(over).toBe(true);
    }),
  );
});
