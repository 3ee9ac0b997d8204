import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createRotation } from '../../src/agent/rotation.ts';
import { AgentError } from '../../src/core/errors.ts';
import type { CertificateReply } from '../../src/core/identity-protocol.ts';
import { FakeClock } from '../support/fake-clock.ts';

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;
const dayMs = 24 * hourMs;
const startMs = Date.UTC(2026, 0, 15, 12);

/** A mount's rotation on a fake clock, and a service that gives certificates of three hours unless it is down. */
function startRotation(random = 0.5) {
  const clock = new FakeClock(startMs);
  const events: { level: string; event: string }[] = [];
  const used: { atMs: number; notAfterMs: number }[] = [];
  const service = { isDown: false, asked: 0 };
  const issue = (): CertificateReply => ({
    certificatePem: `certificate ${used.length}`,
    notBeforeMs: clock.nowMs() - 15 * minuteMs,
    notAfterMs: clock.nowMs() + 3 * hourMs,
    identity: null,
  });
  const rotation = createRotation(
    {
      clock,
      log: (level, event) => void events.push({ level, event }),
      longestUseMs: 3_600_000,
      random: () => random,
      async make() {
        service.asked += 1;
        if (service.isDown) throw new AgentError('metadata.unavailable', 'nobody answers');
        return issue();
      },
      async use({ notAfterMs }) {
        used.push({ atMs: clock.nowMs(), notAfterMs });
      },
      failed: () => {},
    },
    { tunnel: 't' },
  );
  /** As the agent does: a sweep looks each half minute. */
  const pass = async (durationMs: number) => {
    for (let passedMs = 0; passedMs < durationMs; passedMs += minuteMs / 2) {
      await clock.pass(minuteMs / 2);
      rotation.look();
    }
    await clock.pass(0);
  };
  return { clock, events, used, service, rotation, pass, issue };
}

const names = (events: { event: string }[]) => events.map(({ event }) => event);

test('a certificate is replaced about once an hour, and nothing is said', async () => {
  const { rotation, pass, used, events, issue } = startRotation();
  rotation.begin(issue());

  await pass(10 * hourMs);

  expect(used).toHaveLength(10);
  expect(events).toEqual([]);
});

test('hours without credentials: the old certificate stays, the alarm says since when, and all heals by itself', async () => {
  const { clock, rotation, pass, used, service, events, issue } = startRotation();
  const first = issue();
  rotation.begin(first);
  service.isDown = true;

  await pass(2 * hourMs);
  const during = { alarm: rotation.alarm(), current: rotation.current(), said: names(events) };
  await pass(2 * hourMs);
  const afterItsEnd = { alarm: rotation.alarm(), current: rotation.current(), said: names(events) };
  service.isDown = false;
  await pass(2 * minuteMs);

  expect(during.alarm).toMatchObject({ code: 'metadata.unavailable', message: 'nobody answers' });
  expect(during.alarm!.sinceMs - startMs).toBeLessThanOrEqual(hourMs);
  expect(during.current).toBe(first);
  expect(during.said).toEqual(['client-certificate.not-renewed', 'credentials.outage']);
  expect(afterItsEnd.alarm).toEqual(during.alarm);
  expect(afterItsEnd.current).toBe(first);
  expect(afterItsEnd.said).toEqual([...during.said, 'client-certificate.expired']);
  expect(rotation.alarm()).toBeNull();
  expect(names(events).at(-1)).toBe('credentials.recovered');
  expect(used).toHaveLength(1);
  expect(used[0]!.notAfterMs).toBeGreaterThan(clock.nowMs() + 2 * hourMs);
  expect(events.filter(({ level }) => level === 'error')).toHaveLength(2);
});

test('an outage is asked about once a minute at most, after the first minute', async () => {
  const { rotation, pass, service } = startRotation();
  service.isDown = true;
  rotation.begin(null);
  await pass(2 * minuteMs);
  const before = service.asked;

  await pass(hourMs);

  expect(service.asked - before).toBeLessThanOrEqual(90);
  expect(service.asked - before).toBeGreaterThanOrEqual(55);
});

test('a single failure raises no alarm', async () => {
  const { rotation, service, clock, events } = startRotation();
  service.isDown = true;
  rotation.begin(null);
  await clock.pass(1);

  service.isDown = false;
  await clock.pass(minuteMs);

  expect(rotation.alarm()).toBeNull();
  expect(names(events)).toEqual(['client-certificate.not-renewed']);
});

test.each([
  ['a day ahead', dayMs],
  ['a day back', -dayMs],
])(
  'a clock that is set %s has the certificate replaced within a minute, and again an hour later',
  async (_, byMs) => {
    const { clock, rotation, pass, used, events, issue } = startRotation();
    rotation.begin(issue());
    await pass(10 * minuteMs);

    clock.set(byMs);
    await pass(minuteMs);
    const replaced = [...used];
    await pass(hourMs);

    expect(names(events)).toEqual(['clock.set']);
    expect(replaced).toHaveLength(1);
    expect(Math.abs(replaced[0]!.notAfterMs - (clock.nowMs() + 3 * hourMs))).toBeLessThan(2 * hourMs);
    expect(used).toHaveLength(2);
  },
);

test('a clock that is set before a connection comes counts at once', async () => {
  const { clock, rotation, used, issue } = startRotation(0);
  rotation.begin(issue());

  clock.set(dayMs);
  rotation.look();
  await clock.pass(0);

  expect(used).toHaveLength(1);
});

test('whatever clock and service do, ten quiet minutes later the certificate in use is good for an hour and more', async () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('pass' as const), ms: fc.integer({ min: 0, max: 5 * hourMs }) }),
    fc.record({ kind: fc.constant('set' as const), ms: fc.integer({ min: -2 * dayMs, max: 2 * dayMs }) }),
    fc.record({ kind: fc.constant('service' as const), isDown: fc.boolean() }),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 8 }),
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      async (steps, random) => {
        const { clock, rotation, pass, service } = startRotation(random);
        rotation.begin(null);
        for (const one of steps) {
          if (one.kind === 'pass') await pass(one.ms);
          else if (one.kind === 'set') clock.set(one.ms);
          else service.isDown = one.isDown;
        }

        service.isDown = false;
        await pass(10 * minuteMs);

        const { notBeforeMs, notAfterMs } = rotation.current()!;
        expect(notBeforeMs).toBeLessThan(clock.nowMs());
        expect(notAfterMs - clock.nowMs()).toBeGreaterThan(hourMs);
        expect(rotation.alarm()).toBeNull();
      },
    ),
    { numRuns: 40 },
  );
});

test('after the mount is gone nothing is asked any more', async () => {
  const { clock, rotation, service, issue } = startRotation();
  rotation.begin(issue());

  rotation.close();
  await clock.pass(dayMs);

  expect(service.asked).toBe(0);
});
