import { readFileSync } from 'node:fs';

/** Clock ticks of user space: the same on every architecture of Linux. Source: proc_pid_stat(5), sysconf(3). */
const ticksPerSecond = 100;

/**
 * How long the main thread of a process has been ready to run and had no processor, in milliseconds; null when it is gone,
 * or the kernel keeps no such figures. Errors: none. Source: Documentation/scheduler/sched-stats of Linux.
 */
export function readWaitedMs(pid: number): number | null {
  try {
    const [, waitedNs] = readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ');
    return waitedNs === undefined ? null : Number(waitedNs) / 1e6;
  } catch {
    return null;
  }
}

/** Processor time and memory of a process; null when it is gone. Errors: none. */
export function readProcessUsage(pid: number): { cpuSeconds: number; residentBytes: number } | null {
  try {
    // The name of the program comes before, in parentheses, and may hold anything.
    const fields = readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ').at(-1)!.split(' ');
    const residentKib = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];
    return {
      cpuSeconds: (Number(fields[11]) + Number(fields[12])) / ticksPerSecond,
      residentBytes: Number(residentKib ?? 0) * 1024,
    };
  } catch {
    return null;
  }
}
