import { promises as dns } from 'node:dns';
import { AgentError } from '../core/errors.ts';

/** Longest chain of CNAME records that is followed. */
const longestChain = 8;

/**
 * Addresses of a name, as getaddrinfo(3) orders them, so that /etc/hosts and nsswitch.conf hold.
 *
 * Errors: `dns.not-found` when the name does not exist or has no address; `dns.failed` when no server answered.
 */
export async function resolveName(name: string): Promise<string[]> {
  try {
    const found = await dns.lookup(name, { all: true, verbatim: true });
    return found.map((entry) => entry.address);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    if (code === 'ENOTFOUND') {
      throw new AgentError(
        'dns.not-found',
        `Failed to resolve "${name}": the name does not exist or has no address`,
        { name },
        cause,
      );
    }
    throw new AgentError('dns.failed', `Failed to resolve "${name}": ${code}`, { name }, cause);
  }
}

/** Follows CNAME records of a name to the last one; a name without any is its own canonical name. Errors: none. */
export async function resolveCanonicalName(name: string): Promise<string> {
  let canonical = name;
  for (let step = 0; step < longestChain; step += 1) {
    const next = await dns.resolveCname(canonical).catch(() => []);
    if (next[0] === undefined) break;
    canonical = next[0];
  }
  return canonical;
}
