import * as fs from 'node:fs/promises';

/**
 * The mount tables of all mount namespaces that have a process: proc(5), `/proc/[pid]/mountinfo`.
 *
 * Never touches a mount itself. Processes that end meanwhile, or that may not be read, are passed over.
 */
export async function readMountTables(): Promise<string[]> {
  const tables = new Map<string, string>();
  for (const pid of await fs.readdir('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    try {
      const namespace = await fs.readlink(`/proc/${pid}/ns/mnt`);
      if (!tables.has(namespace)) tables.set(namespace, await fs.readFile(`/proc/${pid}/mountinfo`, 'utf8'));
    } catch {
      // The process is gone.
    }
  }
  return [...tables.values()];
}
