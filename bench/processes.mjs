// What /proc tells about processes: memory, wake-ups, CPU, children.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';

const ticksPerSecond = 100;

/** The process and all its descendants at this moment. */
export function family(pid) {
  const childrenOf = new Map();
  for (const name of readdirSync('/proc')) {
    const parent = Number(/\) \S (\d+)/.exec(read(`/proc/${name}/stat`))?.[1]);
    if (!Number.isNaN(parent)) childrenOf.set(parent, [...(childrenOf.get(parent) ?? []), Number(name)]);
  }
  const members = [pid];
  for (const member of members) members.push(...(childrenOf.get(member) ?? []));
  return members;
}

/** What the process was started with; empty when it has gone. */
export function commandLine(pid) {
  return read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim();
}

/** The processes whose command line names this file. */
export function findProcesses(file) {
  return list('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => commandLine(pid).includes(file));
}

/** Proportional set size of the processes together, in KiB. */
export function sumPssKib(pids) {
  return sum(pids, (pid) => Number(/^Pss:\s+(\d+)/m.exec(read(`/proc/${pid}/smaps_rollup`))?.[1] ?? 0));
}

/** Memory of the processes that is no file's, in KiB: unlike the proportional size it does not depend on who else runs node. */
export function sumPrivateKib(pids) {
  return sum(pids, (pid) => Number(/^Anonymous:\s+(\d+)/m.exec(read(`/proc/${pid}/smaps_rollup`))?.[1] ?? 0));
}

/** How many files, sockets and so on the processes have open. */
export function countDescriptors(pids) {
  return sum(pids, (pid) => list(`/proc/${pid}/fd`).length);
}

/** Highest resident set size since `forgetPeaks`, of each process, added up, in KiB. */
export function sumPeakRssKib(pids) {
  return sum(pids, (pid) => Number(/^VmHWM:\s+(\d+)/m.exec(read(`/proc/${pid}/status`))?.[1] ?? 0));
}

/** Starts the peaks anew. Without the right to do so they stay those of the process's life. */
export function forgetPeaks(pids) {
  for (const pid of pids) {
    try {
      writeFileSync(`/proc/${pid}/clear_refs`, '5');
    } catch {
      // Another user's process; its peak of a lifetime is an upper bound.
    }
  }
}

/** How often the threads of the processes went to sleep by themselves: so often they were woken. */
export function sumWakeUps(pids) {
  return sum(pids, (pid) =>
    sum(list(`/proc/${pid}/task`), (thread) =>
      Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(read(`/proc/${pid}/task/${thread}/status`))?.[1] ?? 0),
    ),
  );
}

/** Whether somebody listens on this port of an IPv4 address, found without connecting. */
export function isListening(port) {
  const local = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  return read('/proc/net/tcp')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .some(([, address, , state]) => state === '0A' && address?.endsWith(local));
}

/** CPU seconds the processes have used, to 10 ms. */
export function sumCpuSeconds(pids) {
  return sum(pids, (pid) => {
    const [, user = 0, system = 0] = /\) \S(?: -?\d+){10} (\d+) (\d+)/.exec(read(`/proc/${pid}/stat`)) ?? [];
    return (Number(user) + Number(system)) / ticksPerSecond;
  });
}

function sum(items, value) {
  return items.reduce((total, item) => total + value(item), 0);
}

function list(directory) {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

/** Empty for a process that has gone. */
function read(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
