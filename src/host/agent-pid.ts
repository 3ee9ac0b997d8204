import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readRegularFile } from './regular-file.ts';
import { writeWhole } from './runtime-dir.ts';

const fileName = 'agent.pid';

/** Leaves our process id in the runtime directory, for the next start of the service. Errors: none that matter. */
export async function writeAgentPid(directory: string): Promise<void> {
  await writeWhole(directory, join(directory, fileName), `${process.pid}\n`).catch(() => {});
}

/**
 * The process id of the agent that serves this runtime directory; null when there is none.
 *
 * A number alone proves nothing, since the kernel gives it out again: the process must be an agent.
 */
export async function readAgentPid(directory: string): Promise<number | null> {
  try {
    const pid = Number(await readRegularFile(join(directory, fileName)));
    if (!Number.isSafeInteger(pid) || pid <= 1 || pid === process.pid) return null;
    const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8');
    return /(^|\/)agent\.cjs$/m.test(commandLine.replaceAll('\0', '\n')) ? pid : null;
  } catch {
    return null;
  }
}

/**
 * Whether the agent that serves this runtime directory was stopped by a signal or a debugger: it takes connections, which
 * wait in its backlog, and answers none until it is continued. Source: proc_pid_stat(5).
 */
export async function isAgentStopped(directory: string): Promise<boolean> {
  const pid = await readAgentPid(directory);
  if (pid === null) return false;
  const stat = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => '');
  // The name of the process comes before, in parentheses, and may hold anything.
  return /^ [Tt] /.test(stat.slice(stat.lastIndexOf(')') + 1));
}
