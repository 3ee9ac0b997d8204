import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createTurns } from '../../src/core/turns.ts';
import { FakeClock } from '../support/fake-clock.ts';

function openTurns(atOnce: number) {
  const clock = new FakeClock(0);
  const turns = createTurns(clock, atOnce, 1_000);
  const begun: number[] = [];
  const take = (job: number) => turns.take('a', () => begun.push(job));
  const takeFor = (owner: string, job: number) => turns.take(owner, () => begun.push(job));
  return { clock, begun, take, takeFor };
}

test('so many jobs begin at once and no more; each that ends lets the next one begin, in their order', () => {
  const { begun, take } = openTurns(2);

  const turns = [1, 2, 3, 4].map(take);
  expect(begun).toEqual([1, 2]);
  turns[1]!.leave();
  expect(begun).toEqual([1, 2, 3]);
  turns[1]!.leave();
  expect(begun).toEqual([1, 2, 3]);
  turns[0]!.leave();
  expect(begun).toEqual([1, 2, 3, 4]);
});

test('jobs that hang give their places up after a second, and make no room twice when they end after all', async () => {
  const { clock, begun, take } = openTurns(2);
  const turns = [1, 2, 3, 4, 5, 6].map(take);

  await clock.pass(999);
  expect(begun).toEqual([1, 2]);
  await clock.pass(1);
  expect(begun).toEqual([1, 2, 3, 4]);
  turns[0]!.leave();
  turns[1]!.leave();
  expect(begun).toEqual([1, 2, 3, 4]);
  await clock.pass(1_000);
  expect(begun).toEqual([1, 2, 3, 4, 5, 6]);
});

test('a job that is getting on holds its place for as long as it was given, and no longer', async () => {
  const { clock, begun, take } = openTurns(1);
  const [first] = [1, 2].map(take);

  await clock.pass(999);
  first!.extend(5_000);
  await clock.pass(4_999);
  expect(begun).toEqual([1]);
  await clock.pass(1);
  expect(begun).toEqual([1, 2]);
  // Its place is another's now.
  first!.extend(5_000);
  first!.leave();
  [3].map(take);
  expect(begun).toEqual([1, 2]);
});

test('a job that is not wanted any more before its turn never begins', () => {
  const { begun, take } = openTurns(1);
  const [first, second] = [1, 2, 3].map(take);

  second!.leave();
  first!.leave();

  expect(begun).toEqual([1, 3]);
});

test('an owner with many jobs keeps the others waiting for one of them at a time', () => {
  const { begun, takeFor } = openTurns(1);
  const turns = [
    ...[1, 2, 3, 4].map((job) => takeFor('many', job)),
    ...[11, 12].map((job) => takeFor('few', job)),
    takeFor('one', 21),
  ];
  turns[1]!.leave();

  for (const turn of [0, 2, 4, 6, 3, 5].map((at) => turns[at]!)) turn.leave();

  expect(begun).toEqual([1, 3, 11, 21, 4, 12]);
});

test('whatever ends when, every wanted job begins, and never more than allowed are in their first second', async () => {
  const action = fc.oneof(
    fc.record({ kind: fc.constant('take' as const), owner: fc.constantFrom('a', 'b', 'c') }),
    fc.record({ kind: fc.constant('end' as const), at: fc.nat(20) }),
    fc.record({ kind: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: 1_500 }) }),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 4 }),
      fc.array(action, { maxLength: 60 }),
      async (atOnce, actions) => {
        const clock = new FakeClock(0);
        const turns = createTurns(clock, atOnce, 1_000);
        const jobs: { begunAtMs: number | null; ended: boolean; leave(): void }[] = [];

        for (const step of actions) {
          if (step.kind === 'take') {
            const job = { begunAtMs: null as number | null, ended: false, leave: () => {} };
            jobs.push(job);
            const turn = turns.take(step.owner, () => {
              job.begunAtMs = clock.monoMs();
            });
            job.leave = turn.leave;
          } else if (step.kind === 'wait') await clock.pass(step.ms);
          else {
            const job = jobs[step.at];
            if (job !== undefined) job.ended = true;
            job?.leave();
          }
          const young = jobs.filter(
            ({ begunAtMs, ended }) => begunAtMs !== null && !ended && clock.monoMs() - begunAtMs < 1_000,
          );
          expect(young.length).toBeLessThanOrEqual(atOnce);
        }
        await clock.pass(1_000 * jobs.length);

        for (const { begunAtMs, ended } of jobs) expect(begunAtMs !== null || ended).toBe(true);
      },
    ),
  );
});
