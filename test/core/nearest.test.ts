import fc from 'fast-check';
import { expect, test } from 'vitest';
import { findNearest } from '../../src/core/nearest.ts';

test.each([
  ['targt.silent', 'target.silent'],
  ['target.slient', 'target.silent'],
  ['statsu', 'status'],
  ['mout', 'mount'],
  ['frobnicate', null],
  ['', null],
])('%j was perhaps meant to be %j', (word, meant) => {
  expect(findNearest(word, ['mount', 'status', 'target.silent', 'target.refused'])).toBe(meant);
});

test('a known word is its own nearest one, and one letter more or less does not change that', () => {
  const known = ['credentials.missing', 'mountpoint.busy', 'tls.failed'];
  fc.assert(
    fc.property(fc.constantFrom(...known), fc.nat(), fc.string({ maxLength: 1 }), (word, at, letter) => {
      const cut = at % word.length;

      expect(findNearest(word.slice(0, cut) + letter + word.slice(cut + 1), known)).toBe(word);
    }),
  );
});
