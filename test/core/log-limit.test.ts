import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LogLimit } from '../../src/core/log-limit.ts';

test('what repeats itself is written five times, then held back and counted', () => {
  const limit = new LogLimit<number>();

  const admitted = [1, 2, 3, 4, 5, 6, 7, 8].filter((line) => limit.admit('session.closed', 'mount-a', line));

  expect(admitted).toEqual([1, 2, 3, 4, 5]);
  expect(limit.endWindow()).toEqual([{ line: 8, count: 3 }]);
  expect(limit.admit('session.closed', 'mount-a', 9)).toBe(true);
});

test('lines about another mount, and of another event, are not alike', () => {
  const limit = new LogLimit<string>();
  for (let at = 0; at < 9; at++) limit.admit('session.closed', 'mount-a', 'a');

  expect(limit.admit('session.closed', 'mount-b', 'b')).toBe(true);
  expect(limit.admit('upstream.failed', 'mount-a', 'c')).toBe(true);
});

test('of one event no more than 200 lines are written in a window, however many mounts there are', () => {
  const limit = new LogLimit<number>();

  const admitted = Array.from({ length: 1_000 }, (_, at) =>
    limit.admit('upstream.failed', `mount-${at}`, at),
  );

  expect(admitted.filter(Boolean)).toHaveLength(200);
  expect(limit.endWindow()).toEqual([{ line: 999, count: 800 }]);
});

test('however many things are invented, what is held back stays small, and every line is counted', () => {
  const limit = new LogLimit<number>();
  const lines = Array.from({ length: 60_000 }, (_, at) => at);

  const admitted = lines.filter((at) => limit.admit('worker.failed', `mount-${at % 10_000}`, at)).length;
  const held = limit.endWindow();

  expect(held.length).toBeLessThanOrEqual(1_001);
  expect(admitted + held.reduce((sum, { count }) => sum + count, 0)).toBe(lines.length);
});

test('every line is either written or counted, once', () => {
  const line = fc.record({ event: fc.constantFrom('a', 'b'), about: fc.constantFrom('', 'x', 'y') });
  fc.assert(
    fc.property(fc.array(line, { maxLength: 600 }), (lines) => {
      const limit = new LogLimit<object>();
      const written = lines.filter((one) => limit.admit(one.event, one.about, one)).length;
      const held = limit.endWindow().reduce((sum, { count }) => sum + count, 0);

      expect(written + held).toBe(lines.length);
      expect(limit.isEmpty).toBe(true);
    }),
  );
});
