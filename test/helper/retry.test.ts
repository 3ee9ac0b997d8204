import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decideAttempt, planAttemptMs } from '../../src/helper/retry.ts';
import type { ProgramEnd } from '../../src/host/programs.ts';

const ends = fc.oneof(
  fc.record({ kind: fc.constant('exited' as const), status: fc.integer({ min: 0, max: 255 }) }),
  fc.record({ kind: fc.constant('signalled' as const), signal: fc.constantFrom('SIGKILL', 'SIGSEGV') }),
  fc.constant<ProgramEnd>({ kind: 'timeout' }),
);
const words = fc.constantFrom(
  '',
  'mount.nfs4: Connection reset by peer',
  'mount.nfs4: access denied by server',
  'mount.nfs4: Protocol not supported',
);
const attempts = fc
  .integer({ min: 1, max: 6 })
  .chain((all) => fc.record({ attempt: fc.integer({ min: 1, max: all }), attempts: fc.constant(all) }));

test('an attempt is repeated only if another may follow and the reason may pass', () => {
  fc.assert(
    fc.property(
      ends,
      words,
      attempts,
      fc.boolean(),
      fc.double({ min: 0, max: 0.999, noNaN: true }),
      (end, stderr, of, accessPoint, random) => {
        const retry = { attempts: of.attempts, attemptTimeoutMs: 15_000 };

        const verdict = decideAttempt({ end, stderr }, { attempt: of.attempt, retry, accessPoint, random });

        if (verdict.kind === 'again') {
          expect(of.attempt).toBeLessThan(of.attempts);
          expect(
            end.kind === 'timeout' ||
              stderr.includes('reset by peer') ||
              (accessPoint && stderr.includes('access denied')),
          ).toBe(true);
          expect(verdict.pauseMs).toBeLessThanOrEqual(1_000 * (1.5 ** (of.attempt - 1) + 1));
        }
        if (verdict.kind === 'mounted') expect(end).toEqual({ kind: 'exited', status: 0 });
        if (verdict.kind === 'failed') expect(verdict.status).toBeGreaterThan(0);
      },
    ),
  );
});

test('every attempt but the last has the short deadline', () => {
  const retry = { attempts: 3, attemptTimeoutMs: 15_000 };

  expect([1, 2, 3].map((attempt) => planAttemptMs(attempt, retry, 180_000))).toEqual([
    15_000, 15_000, 180_000,
  ]);
});

test('a mount.nfs4 that a signal ended counts as a mount failure', () => {
  const retry = { attempts: 1, attemptTimeoutMs: 15_000 };

  const verdict = decideAttempt(
    { end: { kind: 'signalled', signal: 'SIGSEGV' }, stderr: '' },
    { attempt: 1, retry, accessPoint: false, random: 0 },
  );

  expect(verdict).toEqual({ kind: 'failed', status: 32 });
});
