import type { MountRetry } from '../core/control-protocol.ts';
import type { ProgramResult } from '../host/programs.ts';

export type AttemptVerdict =
  | { kind: 'mounted' }
  | { kind: 'failed'; status: number }
  | { kind: 'timeout' }
  | { kind: 'again'; pauseMs: number };

/** The status of a mount that failed without one of its own: mount(8). */
const mountFailure = 32;

/**
 * Says how long an attempt of mount.nfs4 may take.
 *
 * Units: milliseconds. Source: specification 7.4; the last attempt, unlimited there, has a deadline here.
 */
export function planAttemptMs(attempt: number, retry: MountRetry, lastAttemptMs: number): number {
  return attempt < retry.attempts ? retry.attemptTimeoutMs : lastAttemptMs;
}

/**
 * Says what an attempt of mount.nfs4 means: only a reset connection, or a refusal through an access point (whose policy
 * may still be on its way), is tried again, and a deadline that passed, at once.
 *
 * @param attempt from 1.
 * @param random a number in [0, 1).
 *
 * Units: the pause in milliseconds, 1.5^i + [0, 1) seconds, i from 0. Source: specification 7.4.
 */
export function decideAttempt(
  { end, stderr }: Pick<ProgramResult, 'end' | 'stderr'>,
  {
    attempt,
    retry,
    accessPoint,
    random,
  }: { attempt: number; retry: MountRetry; accessPoint: boolean; random: number },
): AttemptVerdict {
  const last = attempt >= retry.attempts;
  if (end.kind === 'exited' && end.status === 0) return { kind: 'mounted' };
  if (end.kind === 'timeout') return last ? { kind: 'timeout' } : { kind: 'again', pauseMs: 0 };
  const passing =
    stderr.includes('reset by peer') || (accessPoint && stderr.includes('access denied by server'));
  if (passing && !last)
    return { kind: 'again', pauseMs: Math.round(1_000 * (1.5 ** (attempt - 1) + random)) };
  return { kind: 'failed', status: end.kind === 'exited' ? end.status : mountFailure };
}
