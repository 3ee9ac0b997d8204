import { AgentError } from '../core/errors.ts';
import { identifyNetworkNamespace } from '../host/network-namespace.ts';
import { findProgram, runAttached } from '../host/programs.ts';
import { networkNamespaceDirectory } from '../host/runtime-dir.ts';
import { agentDirectory, type Caller } from './caller.ts';

/** Whether a path names another network namespace than the caller's. Errors: `namespace.unusable`. */
export function isForeignNetworkNamespace(path: string): boolean {
  return identifyNetworkNamespace(path) !== identifyNetworkNamespace('/proc/self/ns/net');
}

/**
 * Runs this very command once more inside a network namespace, with the agent of that namespace, and gives its exit
 * status: names are resolved, the tunnel listens and mount.nfs4 connects there.
 *
 * Errors: `namespace.unusable`.
 */
export async function runInNetworkNamespace(path: string, caller: Caller): Promise<number> {
  const nsenter = findProgram('nsenter', caller.environment['PATH']);
  if (nsenter === null)
    throw new AgentError('namespace.unusable', 'nsenter was found neither in PATH nor in /usr/bin');
  const directory = networkNamespaceDirectory(agentDirectory(caller), identifyNetworkNamespace(path));
  return runAttached(nsenter, [`--net=${path}`, '--', ...caller.command], {
    signal: caller.interruption,
    environment: { ...caller.environment, EFS_AGENT_RUNTIME_DIR: directory },
  });
}
