import { setTimeout as wait } from 'node:timers/promises';
import { planDelayMs } from '../core/backoff.ts';
import type { BindReply, ScaleSettings } from '../core/bind-call.ts';
import { asAgentError, faults } from '../core/errors.ts';
import { planConnections } from '../core/scale-up.ts';
import type { Upstream } from './dial.ts';

/** Source: specification 4.3. */
const searchMs = 15_000;
const mostAttempts = 120;
const attemptsAtOnce = 3;

export interface SearchRequest {
  /** Dials and binds once more, for the same identity. Errors: those of `dialUpstream`. */
  open(signal: AbortSignal): Promise<{ upstream: Upstream; reply: BindReply }>;
  /** Of the connection in use; null = it has none. */
  partition: string | null;
  settings: ScaleSettings;
  /** Most connections that the administrator allows. */
  limit: number;
  random: () => number;
  signal: AbortSignal;
}

export type SearchResult =
  /** More connections of the partition in use. */
  | { kind: 'same'; upstreams: Upstream[] }
  /** As many connections as allowed, of another partition: the one in use cannot join them. */
  | { kind: 'other'; partition: string; upstreams: Upstream[] }
  | { kind: 'none'; why: string };

/**
 * Looks for more connections of one partition: never are two partitions mixed, nor bound connections with unbound ones.
 *
 * Ends with as many as the mount target allows; or with those of the partition in use that were found by the time limit
 * or when the mount target said to stop. Connections of no use are closed. Rejects only when `signal` aborts.
 */
export async function searchConnections(request: SearchRequest): Promise<SearchResult> {
  const found = new Map<string, Upstream[]>();
  const stopping = new AbortController();
  const signal = AbortSignal.any([stopping.signal, request.signal]);
  let wanted = planConnections(request.settings, request.limit);
  let attempts = 0;
  let why = 'too few connections were found in time';
  let other: string | null = null;

  const stop = (reason: string): void => {
    why = reason;
    stopping.abort();
  };
  const keep = (partition: string, upstream: Upstream): void => {
    const bucket = found.get(partition) ?? [];
    found.set(partition, bucket);
    bucket.push(upstream);
    const isOwn = partition === request.partition;
    if (!isOwn && bucket.length >= wanted) other = partition;
    if (bucket.length >= (isOwn ? wanted - 1 : wanted)) stop('done');
  };
  /** True when it may be tried again. */
  const attempt = async (): Promise<boolean> => {
    try {
      const { upstream, reply } = await request.open(signal);
      if ('settings' in reply) wanted = planConnections(reply.settings, request.limit);
      if (reply.kind === 'ready' && wanted > 1 && !signal.aborted) {
        guard(upstream);
        keep(reply.partition, upstream);
        return true;
      }
      upstream.socket.destroy();
      if (signal.aborted || reply.kind === 'retry' || reply.kind === 'preferred') return false;
      stop(reply.kind === 'surprise' ? reply.why : `the mount target answered ${reply.kind}`);
    } catch (thrown) {
      const error = asAgentError(thrown);
      if (faults[error.code].layer !== 'tcp') stop(error.message);
    }
    return false;
  };
  /** As many as the bucket that is nearest to being full lacks: none is opened in vain. */
  const missing = (): number => {
    let least = wanted - 1;
    for (const [partition, bucket] of found) {
      least = Math.min(least, (partition === request.partition ? wanted - 1 : wanted) - bucket.length);
    }
    return Math.max(1, Math.min(attemptsAtOnce, least));
  };

  const timer = setTimeout(() => stopping.abort(), searchMs);
  for (let failures = 0; !signal.aborted; ) {
    const count = missing();
    attempts += count;
    const succeeded = await Promise.all(Array.from({ length: count }, attempt));
    if (attempts >= mostAttempts) stop('too many attempts');
    if (succeeded.includes(true)) continue;
    failures += 1;
    // Aborted: the loop ends.
    await wait(planDelayMs(failures, request.random()), undefined, { signal }).catch(() => {});
  }
  clearTimeout(timer);

  const partition = other ?? request.partition;
  const usable = request.signal.aborted || partition === null ? [] : (found.get(partition) ?? []);
  const chosen = usable
    .filter(({ socket }) => !socket.destroyed && !socket.readableEnded)
    .slice(0, other === null ? wanted - 1 : wanted);
  for (const bucket of found.values()) {
    for (const upstream of bucket) if (!chosen.includes(upstream)) upstream.socket.destroy();
  }
  request.signal.throwIfAborted();
  if (chosen.length === 0) return { kind: 'none', why };
  return other === null
    ? { kind: 'same', upstreams: chosen }
    : { kind: 'other', partition: other, upstreams: chosen };
}

/** A mount target that speaks first is none of ours. */
function guard(upstream: Upstream): void {
  upstream.readInto(() => {
    upstream.socket.destroy();
    return false;
  });
}
