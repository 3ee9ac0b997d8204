import { readdirSync, readFileSync } from 'node:fs';

/** The children of a process; none when it has ended. */
export function childrenOf(pid: number): number[] {
  return readProcess(`${pid}/task/${pid}/children`).split(' ').filter(Boolean).map(Number);
}

/** The script that a Node process runs, behind whatever options Node was given; empty when it has ended. */
export function scriptOf(pid: number): string {
  const [, ...words] = readProcess(`${pid}/cmdline`).split('\0');
  return words.find((word) => !word.startsWith('-')) ?? '';
}

/** The agents of a runtime directory and of those below it, whoever started them. */
export function agentsOf(runtimeDir: string): number[] {
  return readdirSync('/proc')
    .filter((pid) => readProcess(`${pid}/environ`).includes(`EFS_AGENT_RUNTIME_DIR=${runtimeDir}`))
    .map(Number)
    .filter((pid) => scriptOf(pid).endsWith('agent.cjs'));
}

function readProcess(file: string): string {
  try {
    return readFileSync(`/proc/${file}`, 'utf8');
  } catch {
    return '';
  }
}

/** The most memory that a process has had at a time, in bytes. */
export function highestRssBytes(pid: number): number {
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(readProcess(`${pid}/status`))![1]) * 1_024;
}
