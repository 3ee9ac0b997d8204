import fc from 'fast-check';
import { expect, test } from 'vitest';
import { listMemoryCgroups, planBudgetBytes } from '../../src/core/memory-budget.ts';

const mebibyte = 2 ** 20;

test.each([
  ['a large machine', 64 * 1024, null, 256],
  ['2 GiB', 2048, null, 204],
  ['a small machine', 256, null, 32],
  ['a unit with 192 MiB', 64 * 1024, 192, 32],
  ['a unit that hardly holds the processes', 64 * 1024, 100, 8],
  ['a unit with more than the machine needs', 2048, 8192, 204],
])('%s: the sessions of a worker may hold together %i MiB', (_, machine, limit, expected) => {
  const bytes = planBudgetBytes(machine * mebibyte, limit === null ? null : limit * mebibyte);

  expect(Math.floor(bytes / mebibyte)).toBe(expected);
});

test('the budget is never more than the cgroup leaves, except for the least that makes sense', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 2 ** 40 }),
      fc.integer({ min: 0, max: 2 ** 40 }),
      (machine, limit) => {
        const bytes = planBudgetBytes(machine, limit);

        expect(bytes).toBeGreaterThanOrEqual(8 * mebibyte);
        expect(bytes).toBeLessThanOrEqual(Math.max(8 * mebibyte, limit / 2));
      },
    ),
  );
});

test('of version 2, the own cgroup and all around it count', () => {
  expect(listMemoryCgroups('0::/system.slice/efs-agent.service\n')).toEqual([
    { version: 2, path: '/system.slice/efs-agent.service' },
    { version: 2, path: '/system.slice' },
    { version: 2, path: '/' },
  ]);
});

test('of version 1, those of the memory controller count, wherever it is in the list', () => {
  const text = '9:name=systemd:/user\n5:cpu,memory:/a/b\n4:cpuset:/\n0::/user\n';

  expect(listMemoryCgroups(text)).toEqual([
    { version: 1, path: '/a/b' },
    { version: 1, path: '/a' },
    { version: 1, path: '/' },
    { version: 2, path: '/user' },
    { version: 2, path: '/' },
  ]);
});

test('whatever stands in the file, nothing outside of the cgroups is looked at', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme' }), (path) => {
      for (const cgroup of listMemoryCgroups(`0::/${path}\n4:memory:/../${path}`))
        expect(cgroup.path.split('/')).not.toContain('..');
    }),
  );
});
