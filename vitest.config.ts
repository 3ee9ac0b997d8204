import { defineConfig } from 'vitest/config';

const node = {
  environment: 'node',
  pool: 'forks' as const,
  // What is waited for comes at once where there is nothing else to do, and late beside a virtual machine.
  expect: { poll: { timeout: 60_000 } },
};

export default defineConfig({
  test: {
    // Four groups: `npx vitest run --project fast`; `--project interop`, which installs programs of others to talk to;
    // `--project kernel`, which starts virtual machines; and `--project packages`, which builds .deb and .rpm and one machine.
    projects: [
      {
        test: {
          ...node,
          name: 'fast',
          include: ['test/**/*.test.ts'],
          exclude: ['test/kernel/**', 'test/interop/**', 'test/packages/**'],
          // Most of the time is waiting for other processes, also on two cores.
          maxWorkers: 2,
          globalSetup: ['test/support/build-bundles.ts'],
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
      {
        test: {
          ...node,
          name: 'interop',
          include: ['test/interop/**/*.test.ts'],
          globalSetup: ['test/support/build-bundles.ts'],
          testTimeout: 30_000,
          hookTimeout: 300_000,
        },
      },
      {
        test: {
          ...node,
          name: 'kernel',
          include: ['test/kernel/**/*.test.ts'],
          globalSetup: ['test/support/build-bundles.ts'],
          // An emulated machine leaves half of two cores idle.
          maxWorkers: 2,
          testTimeout: 600_000,
          hookTimeout: 900_000,
        },
      },
      {
        test: {
          ...node,
          name: 'packages',
          include: ['test/packages/**/*.test.ts'],
          globalSetup: ['test/support/build-bundles.ts'],
          maxWorkers: 2,
          testTimeout: 600_000,
          hookTimeout: 900_000,
        },
      },
    ],
  },
});
