import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decideCondition, noTraffic, noteTraffic, readTraffic } from '../../src/core/traffic.ts';
import type { SessionState, TunnelState } from '../../src/core/worker-protocol.ts';

const idle: SessionState = {
  sessionId: 1,
  address: '10.1.1.6',
  connections: 1,
  inFlight: 0,
  oldestMs: 0,
  bytesUp: 0,
  bytesDown: 0,
};

function reportOf(bytesUp: number, bytesDown: number, ...open: Partial<SessionState>[]): TunnelState {
  return {
    tunnelId: 't',
    sessions: open.length,
    bytesUp,
    bytesDown,
    open: open.map((changes) => ({ ...idle, ...changes })),
  };
}

test('rates are those between the last two reports', () => {
  const first = noteTraffic(noTraffic, reportOf(1_000, 0, {}), 10_000);
  const second = noteTraffic(first, reportOf(3_000, 500, {}), 11_000);

  expect(readTraffic(second, 11_900)).toMatchObject({ bytesUpPerSecond: 2_000, bytesDownPerSecond: 500 });
});

test('a tunnel of which nothing is heard any more moves nothing, and keeps its counters', () => {
  const first = noteTraffic(noTraffic, reportOf(1_000, 0, {}), 10_000);
  const second = noteTraffic(first, reportOf(3_000, 500, {}), 11_000);

  expect(readTraffic(second, 14_000)).toMatchObject({
    bytesUp: 3_000,
    bytesDown: 500,
    bytesUpPerSecond: 0,
    bytesDownPerSecond: 0,
  });
});

test('a report after a long silence is not spread over the silence', () => {
  const first = noteTraffic(noTraffic, reportOf(0, 0, {}), 0);
  const later = noteTraffic(first, reportOf(5_000, 0, {}), 3_600_000);

  expect(readTraffic(later, 3_600_000).bytesUpPerSecond).toBe(5_000);
});

test('the oldest request grows older between reports, and there is none when none is in flight', () => {
  const busy = noteTraffic(
    noTraffic,
    reportOf(0, 0, { inFlight: 2, oldestMs: 3_000 }, { inFlight: 1 }),
    1_000,
  );
  const done = noteTraffic(busy, reportOf(0, 0, {}), 2_000);

  expect(readTraffic(busy, 5_000)).toMatchObject({ requestsInFlight: 3, oldestRequestMs: 7_000 });
  expect(readTraffic(done, 5_000)).toMatchObject({ requestsInFlight: 0, oldestRequestMs: 0 });
});

test('a mount reconnects while a connection of the kernel waits, and has stalled after five seconds', () => {
  const dialling = noteTraffic(noTraffic, reportOf(0, 0, { connections: 0, address: null }), 0);
  const stalled = noteTraffic(noTraffic, reportOf(0, 0, { inFlight: 1, oldestMs: 5_000 }), 0);
  const slow = noteTraffic(noTraffic, reportOf(0, 0, { inFlight: 1, oldestMs: 4_000 }), 0);

  expect(decideCondition(dialling, 0)).toBe('reconnecting');
  expect(decideCondition(slow, 1)).toBe('reconnecting');
  expect(decideCondition(stalled, 0)).toBe('stalled');
  expect(decideCondition(slow, 0)).toBe('fine');
});

test('whatever is reported and whenever, no rate is negative or not a number', () => {
  const report = fc.record({ bytesUp: fc.nat(), bytesDown: fc.nat(), elapsedMs: fc.nat(5_000) });
  fc.assert(
    fc.property(fc.array(report, { minLength: 1 }), (reports) => {
      let traffic = noTraffic;
      let nowMonoMs = 0;
      for (const { bytesUp, bytesDown, elapsedMs } of reports) {
        nowMonoMs += elapsedMs;
        traffic = noteTraffic(traffic, reportOf(bytesUp, bytesDown, {}), nowMonoMs);
        const { bytesUpPerSecond, bytesDownPerSecond } = readTraffic(traffic, nowMonoMs);

        expect(Number.isSafeInteger(bytesUpPerSecond) && bytesUpPerSecond >= 0).toBe(true);
        expect(Number.isSafeInteger(bytesDownPerSecond) && bytesDownPerSecond >= 0).toBe(true);
      }
    }),
  );
});
