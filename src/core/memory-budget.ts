const mebibyte = 2 ** 20;
/** What agent, worker, successor and identity process need together before the first byte is carried. */
const processesBytes = 128 * mebibyte;
const least = 8 * mebibyte;
const most = 256 * mebibyte;

/**
 * How many bytes all sessions of a worker may hold together.
 *
 * A tenth of the machine's memory; and of what a cgroup allows, half of what the processes leave, because bytes on their way through TLS
 * are there twice.
 *
 * Units: bytes. @param limitBytes that of the cgroup; null = none. Errors: none. Source: our choice, docs/decisions/0013.
 */
export function planBudgetBytes(machineBytes: number, limitBytes: number | null): number {
  const share = Math.max(machineBytes / 10, 32 * mebibyte);
  const allowed = limitBytes === null ? share : Math.min(share, (limitBytes - processesBytes) / 2);
  return Math.floor(Math.min(most, Math.max(least, allowed)));
}

/**
 * The directories whose memory limit holds for a process, its own cgroup first, then those around it.
 *
 * @param text `/proc/self/cgroup`; in a container its own cgroup may be the root that is shown.
 *
 * Errors: none. Source: cgroups(7).
 */
export function listMemoryCgroups(text: string): { version: 1 | 2; path: string }[] {
  const cgroups: { version: 1 | 2; path: string }[] = [];
  for (const line of text.split('\n')) {
    const [, id, controllers, path] = /^(\d+):([^:]*):(\/.*)$/.exec(line) ?? [];
    const version = controllers === '' && id === '0' ? 2 : 1;
    if (path === undefined || (version === 1 && controllers?.split(',').includes('memory') !== true))
      continue;
    const names = path.split('/').filter((name) => name !== '' && name !== '..');
    for (let depth = names.length; depth >= 0; depth -= 1)
      cgroups.push({ version, path: `/${names.slice(0, depth).join('/')}` });
  }
  return cgroups;
}
