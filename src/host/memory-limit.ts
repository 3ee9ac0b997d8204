import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { listMemoryCgroups } from '../core/memory-budget.ts';

const places = {
  1: ['/sys/fs/cgroup/memory', 'memory.limit_in_bytes'],
  2: ['/sys/fs/cgroup', 'memory.max'],
} as const;

/**
 * The lowest memory limit of this process's cgroup and those around it.
 *
 * Units: bytes; null = no limit, or none that can be read. Errors: none.
 */
export function readMemoryLimit(): number | null {
  const limits = listMemoryCgroups(readText('/proc/self/cgroup')).flatMap(({ version, path }) => {
    const [root, name] = places[version];
    const bytes = Number.parseInt(readText(join(root, path, name)), 10);
    // Version 1 writes a huge number where there is no limit, version 2 the word max.
    return Number.isSafeInteger(bytes) ? [bytes] : [];
  });
  return limits.length === 0 ? null : Math.min(...limits);
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
