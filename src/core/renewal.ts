import { planDelayMs } from './backoff.ts';

/**
 * Says when to replace a client certificate: after an hour, as the reference does, or what is configured, but never
 * later than at two thirds of its life, and before the credentials inside it expire.
 *
 * Units: epoch milliseconds, UTC; `random` in [0, 1) spreads renewals over five minutes. Errors: none; a
 * certificate already past that point gives `nowMs`. Source: specification 8.4; the last third is left for
 * credential outages.
 */
export function planRenewalAtMs(certificate: CertificateLife, nowMs: number, random: number): number {
  const lifeMs = certificate.notAfterMs - nowMs;
  const byAge = Math.min(certificate.longestUseMs, (lifeMs * 2) / 3);
  const byCredentials =
    certificate.credentialsExpireAtMs === null
      ? byAge
      : ((certificate.credentialsExpireAtMs - nowMs) * 2) / 3;
  const delayMs = Math.min(byAge, Math.max(byCredentials, shortestMs));
  const spreadMs = random * Math.min(5 * 60_000, delayMs / 10);
  return Math.max(nowMs, nowMs + delayMs - spreadMs);
}

/** Credentials that never last longer than this must not make us sign without pause. */
const shortestMs = 30_000;

/** One moment, on the clock that may be set and on the one that never is. */
export interface Instant {
  wallMs: number;
  monoMs: number;
}

/** When a certificate and the credentials in it end, in epoch milliseconds. */
export interface CertificateLife {
  notAfterMs: number;
  credentialsExpireAtMs: number | null;
  /** How long it may be used, in milliseconds: what is configured. */
  longestUseMs: number;
}

/**
 * How it stands with the client certificate of one mount. The old certificate stays in use whatever happens here: it is the agent's
 * only one, and connections that are open do not ask for it.
 */
export interface RenewalState {
  /** Null until the first one is made. */
  certificate: CertificateLife | null;
  next: { kind: 'ask'; dueMonoMs: number } | { kind: 'asked' };
  trouble: RenewalTrouble | null;
  /** Wall clock less monotonic clock at the last look: another difference means that the clock was set. */
  offsetMs: number;
}

export interface RenewalTrouble {
  failures: number;
  sinceMs: number;
  /** `alarm`: nobody gives credentials any more. `expired`: and the certificate in use has ended. */
  level: 'noted' | 'alarm' | 'expired';
}

export type RenewalEvent =
  | { kind: 'made'; certificate: CertificateLife }
  | { kind: 'failed' }
  /** Time may have passed, in which case the clock may have been set. */
  | { kind: 'looked' };

export type RenewalAction =
  | { kind: 'ask' }
  | { kind: 'raise'; level: RenewalTrouble['level'] }
  | { kind: 'healed'; afterMs: number }
  | { kind: 'clock-set'; byMs: number };

/** A clock that runs away slowly is no jump; certificates have a quarter of an hour of room before their beginning. */
const jumpMs = 60_000;
/** Certificates that the same jump made useless are not all replaced in the same moment. */
const jumpSpreadMs = 5_000;
/** With fewer failures in a row it may have been one answer that was lost. */
const alarmFailures = 3;
/** Six times the delays of connections, a minute at most: credentials are good for hours. */
const retryFactor = 6;

/** @param certificate what an earlier agent made; null = the first one is to be made now. */
export function beginRenewal(
  certificate: CertificateLife | null,
  now: Instant,
  random: number,
): RenewalState {
  return {
    certificate,
    next: {
      kind: 'ask',
      dueMonoMs: now.monoMs + (certificate === null ? 0 : delayMs(certificate, now, random)),
    },
    trouble: null,
    offsetMs: now.wallMs - now.monoMs,
  };
}

/**
 * One step: when a certificate is asked for, and what is said about it.
 *
 * Delays are monotonic, so that no clock that is set makes a renewal late; a clock that is set makes the certificate doubtful
 * (signed in the future, or expired), and it is replaced at once.
 *
 * Units: milliseconds; `random` in [0, 1). Errors: none. Source: our choice, docs/decisions/0012.
 */
export function decideRenewal(
  state: RenewalState,
  event: RenewalEvent,
  now: Instant,
  random: number,
): [RenewalState, RenewalAction[]] {
  switch (event.kind) {
    case 'made': {
      const { certificate } = event;
      const { trouble } = state;
      const next = { kind: 'ask', dueMonoMs: now.monoMs + delayMs(certificate, now, random) } as const;
      const wasAlarming = trouble !== null && trouble.level !== 'noted';
      return [
        { ...state, certificate, next, trouble: null },
        wasAlarming ? [{ kind: 'healed', afterMs: now.wallMs - trouble.sinceMs }] : [],
      ];
    }
    case 'failed': {
      const failures = (state.trouble?.failures ?? 0) + 1;
      const retryMs = planDelayMs(failures, random) * retryFactor;
      const next = { kind: 'ask', dueMonoMs: now.monoMs + retryMs } as const;
      const trouble = { sinceMs: now.wallMs, level: 'noted', ...state.trouble, failures } as const;
      const first: RenewalAction[] = failures === 1 ? [{ kind: 'raise', level: 'noted' }] : [];
      return raise({ ...state, next, trouble }, now, first);
    }
    case 'looked': {
      const offsetMs = now.wallMs - now.monoMs;
      const byMs = offsetMs - state.offsetMs;
      const actions: RenewalAction[] = [];
      let { next } = state;
      if (Math.abs(byMs) >= jumpMs) {
        actions.push({ kind: 'clock-set', byMs });
        const soonMonoMs = now.monoMs + random * jumpSpreadMs;
        if (next.kind === 'ask' && next.dueMonoMs > soonMonoMs) next = { kind: 'ask', dueMonoMs: soonMonoMs };
      }
      if (next.kind === 'ask' && now.monoMs >= next.dueMonoMs) {
        next = { kind: 'asked' };
        actions.push({ kind: 'ask' });
      }
      return raise({ ...state, next, offsetMs }, now, actions);
    }
  }
}

/** Says it once when trouble becomes worse. */
function raise(state: RenewalState, now: Instant, actions: RenewalAction[]): [RenewalState, RenewalAction[]] {
  const { trouble, certificate } = state;
  if (trouble === null || trouble.level === 'expired') return [state, actions];
  const isOver = certificate !== null && certificate.notAfterMs <= now.wallMs;
  const level = trouble.failures < alarmFailures ? 'noted' : isOver ? 'expired' : 'alarm';
  if (level === trouble.level) return [state, actions];
  return [{ ...state, trouble: { ...trouble, level } }, [...actions, { kind: 'raise', level }]];
}

function delayMs(certificate: CertificateLife, now: Instant, random: number): number {
  return planRenewalAtMs(certificate, now.wallMs, random) - now.wallMs;
}
