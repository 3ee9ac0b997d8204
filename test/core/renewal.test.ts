import fc from 'fast-check';
import { expect, test } from 'vitest';
import { planRenewalAtMs } from '../../src/core/renewal.ts';

const minuteMs = 60_000;
const hourMs = 60 * minuteMs;
const nowMs = Date.UTC(2026, 0, 15, 12);
const fraction = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const life = fc.integer({ min: -hourMs, max: 24 * hourMs });

test('a certificate of three hours is replaced after an hour at the latest, five minutes earlier at the earliest', () => {
  const certificate = { notAfterMs: nowMs + 3 * hourMs, credentialsExpireAtMs: null, longestUseMs: hourMs };

  expect(planRenewalAtMs(certificate, nowMs, 0)).toBe(nowMs + hourMs);
  expect(planRenewalAtMs(certificate, nowMs, 0.9999)).toBeCloseTo(nowMs + 55 * minuteMs, -3);
});

test('a certificate is never replaced later than at two thirds of the life it has left', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 24 * hourMs }), fraction, (lifeMs, random) => {
      const dueMs = planRenewalAtMs(
        { notAfterMs: nowMs + lifeMs, credentialsExpireAtMs: null, longestUseMs: hourMs },
        nowMs,
        random,
      );

      expect(dueMs).toBeLessThanOrEqual(nowMs + (lifeMs * 2) / 3);
    }),
  );
});

test('a certificate is never replaced before now, however long it has been over', () => {
  fc.assert(
    fc.property(life, fc.option(life), fraction, (lifeMs, credentialsMs, random) => {
      const credentialsExpireAtMs = credentialsMs === null ? null : nowMs + credentialsMs;

      const dueMs = planRenewalAtMs(
        { notAfterMs: nowMs + lifeMs, credentialsExpireAtMs, longestUseMs: hourMs },
        nowMs,
        random,
      );

      expect(dueMs).toBeGreaterThanOrEqual(nowMs);
      expect(dueMs).toBeLessThanOrEqual(nowMs + hourMs);
    }),
  );
});

test('a certificate is replaced before the credentials in it expire, when they last a minute or longer', () => {
  fc.assert(
    fc.property(fc.integer({ min: minuteMs, max: 12 * hourMs }), fraction, (credentialsMs, random) => {
      const certificate = {
        notAfterMs: nowMs + 3 * hourMs,
        credentialsExpireAtMs: nowMs + credentialsMs,
        longestUseMs: hourMs,
      };

      expect(planRenewalAtMs(certificate, nowMs, random)).toBeLessThan(nowMs + credentialsMs);
    }),
  );
});

test('credentials that are about to expire do not make the agent sign without pause', () => {
  fc.assert(
    fc.property(fc.integer({ min: -hourMs, max: minuteMs }), fraction, (credentialsMs, random) => {
      const certificate = {
        notAfterMs: nowMs + 3 * hourMs,
        credentialsExpireAtMs: nowMs + credentialsMs,
        longestUseMs: hourMs,
      };

      expect(planRenewalAtMs(certificate, nowMs, random)).toBeGreaterThanOrEqual(nowMs + 25_000);
    }),
  );
});

test('a certificate is replaced as often as the configuration asks for', () => {
  const certificate = {
    notAfterMs: nowMs + 3 * hourMs,
    credentialsExpireAtMs: nowMs + 6 * hourMs,
    longestUseMs: 1_000,
  };

  expect(planRenewalAtMs(certificate, nowMs, 0)).toBe(nowMs + 1_000);
});
