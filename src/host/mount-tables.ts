import * as fs from 'node:fs/promises';

/**
 * The mount tables of all mount namespaces that have a process, our own first: proc(5), `/proc/[pid]/mountinfo`.
 *
 * They are read one by one, for most questions are answered by the first. Never touches a mount itself. Processes
 * that end meanwhile, or that may not be read, are passed over.
 */
export async function* readMountTables(): AsyncGenerator<string> {
  const seen = new Set<string>();
  yield* readTable('self', seen);
  for (const pid of await fs.readdir('/proc')) if (/^\d+$/.test(pid)) yield* readTable(pid, seen);
}

/** The table of a process, unless that of its mount namespace is among the `seen` ones. */
async function* readTable(pid: string, seen: Set<string>): AsyncGenerator<string> {
  let table: string;
  try {
    const namespace = await fs.readlink(`/proc/${pid}/ns/mnt`);
    if (seen.has(namespace)) return;
    table = await fs.readFile(`/proc/${pid}/mountinfo`, 'utf8');
    seen.add(namespace);
  } catch {
    return; // The process is gone.
  }
  yield table;
}
