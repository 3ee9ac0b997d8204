/**
 * Says when to replace a client certificate: after an hour, as the reference does, but never later than at
 * two thirds of its life, and before the credentials inside it expire.
 *
 * Units: epoch milliseconds, UTC; `random` in [0, 1) spreads renewals over five minutes. Errors: none; a
 * certificate already past that point gives `nowMs`. Source: specification 8.4; the last third is left for
 * credential outages.
 */
export function planRenewalAtMs(
  certificate: { notAfterMs: number; credentialsExpireAtMs: number | null },
  nowMs: number,
  random: number,
): number {
  const lifeMs = certificate.notAfterMs - nowMs;
  const byAge = Math.min(hourMs, (lifeMs * 2) / 3);
  const byCredentials =
    certificate.credentialsExpireAtMs === null
      ? byAge
      : ((certificate.credentialsExpireAtMs - nowMs) * 2) / 3;
  const delayMs = Math.min(byAge, Math.max(byCredentials, shortestMs));
  const spreadMs = random * Math.min(5 * 60_000, delayMs / 10);
  return Math.max(nowMs, nowMs + delayMs - spreadMs);
}

const hourMs = 3_600_000;
/** Credentials that never last longer than this must not make us sign without pause. */
const shortestMs = 30_000;
