import { AgentError } from '../core/errors.ts';
import { findProgram, type ProgramResult, runProgram } from '../host/programs.ts';
import type { Caller } from './caller.ts';

/** Path of mount.nfs4. Errors: `nfs.program-missing`. */
export function findMountProgram(caller: Caller): string {
  const program = findProgram('mount.nfs4', caller.environment['PATH']);
  if (program === null)
    throw new AgentError('nfs.program-missing', 'mount.nfs4 was found neither in PATH nor in /sbin');
  return program;
}

/**
 * Runs mount.nfs4 to its end.
 *
 * Errors: `nfs.program-missing` when it cannot be run.
 *
 * @param descriptors of ours that it holds as long as it runs.
 */
export async function runMountProgram(
  program: string,
  args: string[],
  timeoutMs: number,
  caller: Caller,
  descriptors: readonly number[] = [],
): Promise<ProgramResult> {
  try {
    // LC_ALL: what it says is looked at, and shown next to our own English.
    const environment = { ...caller.environment, LC_ALL: 'C' };
    return await runProgram(program, args, {
      timeoutMs,
      signal: caller.interruption,
      environment,
      descriptors,
    });
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    throw new AgentError('nfs.program-missing', `cannot run ${program}: ${reason}`, { program }, cause);
  }
}

/** Text as whole lines. */
export function asLines(text: string): string {
  return text === '' || text.endsWith('\n') ? text : `${text}\n`;
}
