import { tryConnect } from '../agent/direct.ts';
import { type AgentError, asAgentError } from '../core/errors.ts';
import type { Endpoint } from '../core/worker-protocol.ts';

/** An address of the mount target, and how its port answered. */
export interface Reached {
  endpoint: Endpoint;
  elapsedMs: number;
  /** Null when it accepted the connection. */
  error: AgentError | null;
}

/** Nobody gives up on it. */
const never = new AbortController().signal;

/** Connects to all of them side by side. Units: milliseconds for each. Errors: none. */
export function reachEndpoints(endpoints: readonly Endpoint[], timeoutMs: number): Promise<Reached[]> {
  return Promise.all(
    endpoints.map(async (endpoint) => {
      const startMs = performance.now();
      const error = await tryConnect(endpoint.address, endpoint.port, timeoutMs, never).then(
        () => null,
        asAgentError,
      );
      return { endpoint, elapsedMs: Math.round(performance.now() - startMs), error };
    }),
  );
}
