import { expect, test } from 'vitest';
import { shareRoots } from '../../src/agent/shared-roots.ts';

test('mounts that trust the same roots keep one copy of them, and others keep their own', () => {
  const read = (...roots: string[]) => roots.map((root) => `${root}`);
  const first = shareRoots(read('a', 'b'));

  expect(shareRoots(read('a', 'b'))).toBe(first);
  expect(shareRoots(read('b', 'a'))).toEqual(['b', 'a']);
  expect(shareRoots(read('b'))).toEqual(['b']);
  expect(shareRoots([])).toEqual([]);
  expect(first).toEqual(['a', 'b']);
});
