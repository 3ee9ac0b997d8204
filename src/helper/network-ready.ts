import { existsSync } from 'node:fs';
import { AgentError, faults } from '../core/errors.ts';
import { findProgram, runProgram } from '../host/programs.ts';
import type { Caller } from './caller.ts';

/** systemctl's status for a unit that is not active. */
const notActive = 3;

const systemctlTimeoutMs = 5_000;

/**
 * Adds to an error that a missing network explains that systemd has not brought the network up yet: at boot that
 * is an fstab line without `_netdev`.
 *
 * Errors: none. Source: specification 1.7; our choice (docs/migration.md): only once something has failed, and the mount
 * has failed then.
 */
export async function explainMissingNetwork(error: AgentError, caller: Caller): Promise<AgentError> {
  const { layer } = faults[error.code];
  if (!['dns', 'tcp', 'iam'].includes(layer) && error.code !== 'region.unknown') return error;
  if (!existsSync(caller.files.systemd)) return error;
  const systemctl = findProgram('systemctl', caller.environment['PATH']);
  if (systemctl === null) return error;
  const { end } = await runProgram(systemctl, ['is-active', '--quiet', 'network.target'], {
    timeoutMs: systemctlTimeoutMs,
    environment: caller.environment,
  });
  if (end.kind !== 'exited' || end.status !== notActive) return error;
  return new AgentError(
    error.code,
    `${error.message}; the network is not up yet (network.target is not active)`,
    {
      ...error.details,
      hint: 'Add _netdev to the options in /etc/fstab, so that the mount waits for the network.',
    },
    error,
  );
}
