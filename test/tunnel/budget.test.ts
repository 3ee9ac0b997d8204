import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Budget, type BudgetShare, type Flow } from '../../src/tunnel/budget.ts';

interface Watched {
  flow: Flow;
  reading: boolean;
}

/** A flow of a tunnel of its own, unless it is given the share of one. */
function openFlow(of: Budget | BudgetShare, markBytes = 1_000): Watched {
  const share = of instanceof Budget ? of.openShare() : of;
  const watched: Watched = {
    reading: true,
    flow: share.openFlow(markBytes, {
      pause: () => {
        watched.reading = false;
      },
      resume: () => {
        watched.reading = true;
      },
    }),
  };
  return watched;
}

test('a flow stops reading above its mark and starts again at half of it', () => {
  const one = openFlow(new Budget(1_000_000));

  one.flow.hold(1_000);
  expect(one.reading).toBe(true);
  one.flow.hold(1_001);
  expect(one.reading).toBe(false);
  one.flow.hold(501);
  expect(one.reading).toBe(false);
  one.flow.hold(500);
  expect(one.reading).toBe(true);
});

test('above the limit the flow that holds most stops reading first', () => {
  const budget = new Budget(1_000);
  const [small, large, last] = [openFlow(budget), openFlow(budget), openFlow(budget)];

  small.flow.hold(200);
  large.flow.hold(700);
  last.flow.hold(150);

  expect([small.reading, large.reading, last.reading]).toEqual([true, false, true]);
});

test('a mount with many connections stops before one with a single connection that holds more than each of them', () => {
  const budget = new Budget(1_000);
  const share = budget.openShare();
  const many = Array.from({ length: 9 }, () => openFlow(share));
  const single = openFlow(budget);
  single.flow.hold(200);

  for (const { flow } of many) flow.hold(100);

  expect(single.reading).toBe(true);
  expect(many.some(({ reading }) => !reading)).toBe(true);
});

test('a flow whose peer is quick goes on although the others fill the budget', () => {
  const budget = new Budget(1_000);
  const slow = [openFlow(budget), openFlow(budget)];
  for (const { flow } of slow) flow.hold(900);
  const quick = openFlow(budget);

  for (let count = 0; count < 100; count++) {
    expect(quick.reading).toBe(true);
    quick.flow.hold(400);
    quick.flow.hold(0);
  }

  expect(slow.map(({ reading }) => reading)).toEqual([false, false]);
});

test('all flows read again once a quarter of the limit is free', () => {
  const budget = new Budget(1_000);
  const [one, other] = [openFlow(budget), openFlow(budget)];
  one.flow.hold(450);
  other.flow.hold(560);
  expect(other.reading).toBe(false);

  one.flow.hold(150);
  expect(other.reading).toBe(false);
  other.flow.hold(490);

  expect([one.reading, other.reading]).toEqual([true, true]);
});

test('readers that obey never hold more than the limit and one read for each flow', () => {
  const limitBytes = 4_000;
  const readBytes = 300;
  const step = fc.record({ flow: fc.nat(7), action: fc.constantFrom('read', 'read', 'drain', 'close') });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 400 }), (steps) => {
      const budget = new Budget(limitBytes);
      const flows = Array.from({ length: 8 }, () => openFlow(budget));
      const closed = new Set<Watched>();

      for (const { flow: index, action } of steps) {
        const watched = flows[index]!;
        if (action === 'close') {
          watched.flow.close();
          closed.add(watched);
        } else if (closed.has(watched)) continue;
        else if (action === 'drain') watched.flow.hold(Math.max(0, watched.flow.heldBytes - 450));
        else if (watched.reading) watched.flow.hold(watched.flow.heldBytes + readBytes);

        expect(budget.heldBytes).toBe(flows.reduce((sum, { flow }) => sum + flow.heldBytes, 0));
        expect(budget.heldBytes).toBeLessThanOrEqual(limitBytes + readBytes * flows.length);
      }
    }),
  );
});

test('however the flows were filled, once all are empty all of them read', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(4), fc.nat(3_000)), { maxLength: 200 }), (holds) => {
      const budget = new Budget(2_000);
      const flows = Array.from({ length: 5 }, () => openFlow(budget));
      for (const [index, heldBytes] of holds) flows[index]!.flow.hold(heldBytes);

      for (const { flow } of flows) flow.hold(0);

      expect(budget.heldBytes).toBe(0);
      expect(flows.every(({ reading }) => reading)).toBe(true);
    }),
  );
});
