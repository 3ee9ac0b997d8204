import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  decideScale,
  initialScaleState,
  planConnections,
  type ScaleAction,
  type ScaleObservation,
} from '../../src/core/scale-up.ts';

const settings = { maxConnections: 5, thresholdBytesPerSec: 300, breachedSec: 1 };
const idle: ScaleObservation = {
  nowTick: 1_000,
  bytes: 0,
  connections: 1,
  settings,
  limit: 5,
  searchFromTick: 0,
};

/** What is decided at each tick of a steady load. */
function run(bytesPerSec: number, ticks: number, changes: Partial<ScaleObservation> = {}): ScaleAction[] {
  let state = initialScaleState;
  return Array.from({ length: ticks }, (_, index) => {
    const tick = index + 1;
    const [next, action] = decideScale(state, {
      ...idle,
      nowTick: idle.nowTick + tick,
      ...changes,
      bytes: bytesPerSec * tick,
    });
    state = next;
    return action;
  });
}

test('a steady load at the threshold widens the session, one below it does not', () => {
  expect(run(300, 3)[0]).toBe('widen');
  expect(run(299, 100)).not.toContain('widen');
});

test('the threshold must be reached for as long as the mount target asks', () => {
  expect(run(300, 4, { settings: { ...settings, breachedSec: 3 } })).toEqual([null, null, 'widen', 'widen']);
});

test('a threshold of 0 is always reached, a negative one never', () => {
  expect(run(0, 1, { settings: { ...settings, thresholdBytesPerSec: 0 } })).toEqual(['widen']);
  expect(run(1e12, 10, { settings: { ...settings, thresholdBytesPerSec: -1 } })).not.toContain('widen');
});

test.each([
  ['the mount target allows one connection', { settings: { ...settings, maxConnections: 1 } }],
  ['the mount target allows nonsense', { settings: { ...settings, maxConnections: -5 } }],
  ['the administrator allows one connection', { limit: 1 }],
  ['the mount target has never answered a bind call', { settings: null }],
  ['it has several connections already', { connections: 2 }],
  ['the last search found nothing a moment ago', { searchFromTick: 1_100 }],
])('a session is not widened when %s', (_why, changes) => {
  expect(run(1e9, 50, changes)).not.toContain('widen');
});

test('a search is tried again when its pause is over', () => {
  const actions = run(1e9, 400, { searchFromTick: 1_300 });

  expect(actions.indexOf('widen') + 1).toBe(300);
});

test('a wide session that stays calm for five minutes becomes narrow, a busy one does not', () => {
  expect(run(30, 310, { connections: 5 }).indexOf('narrow') + 1).toBe(300);
  expect(run(100, 1_000, { connections: 5 })).not.toContain('narrow');
});

test('a session never gets more connections than either side allows, and always one', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 }),
      fc.integer({ min: 1, max: 100 }),
      (max, limit) => {
        const connections = planConnections({ ...settings, maxConnections: max }, limit);

        expect(connections).toBeGreaterThanOrEqual(1);
        expect(connections).toBeLessThanOrEqual(limit);
        expect(connections).toBeLessThanOrEqual(Math.max(1, max));
      },
    ),
  );
});
