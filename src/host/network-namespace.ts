import { statSync } from 'node:fs';
import { AgentError } from '../core/errors.ts';

/**
 * The number of a network namespace, as in `net:[4026531840]`.
 *
 * Errors: `namespace.unusable`.
 */
export function identifyNetworkNamespace(path: string): number {
  try {
    return statSync(path).ino;
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new AgentError(
      'namespace.unusable',
      `cannot use the network namespace ${path}: ${code}`,
      { path },
      cause,
    );
  }
}

/**
 * The number of this process's network namespace if it is another one than that of process 1; else null: in a
 * container, process 1 is the container's.
 *
 * Errors: none; a process 1 that may not be looked at counts as one in our own.
 */
export function readForeignNetworkNamespace(): number | null {
  try {
    const own = statSync('/proc/self/ns/net').ino;
    return own === statSync('/proc/1/ns/net').ino ? null : own;
  } catch {
    return null;
  }
}
