import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseDuration } from '../../src/core/duration.ts';

test.each([
  ['90', 90_000],
  ['90s', 90_000],
  ['10m', 600_000],
  ['2h', 7_200_000],
  ['30d', 2_592_000_000],
])('%s is read as a duration', (text, expectedMs) => {
  expect(parseDuration(text, '--for')).toBe(expectedMs);
});

test('whatever else is written is refused with the name of its option', () => {
  for (const text of ['', '0', '0m', '31d', '1w', '-1', '1.5h', ' 1', '1 m', '99999999999s'])
    expect(() => parseDuration(text, '--for'), text).toThrow(/^--for must be a duration/);
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        expect(parseDuration(text, '--for')).toBeGreaterThan(0);
      } catch (error) {
        expect(error).toMatchObject({ code: 'usage' });
      }
    }),
  );
});
