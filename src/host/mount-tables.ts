import * as fs from 'node:fs/promises';

/** More than the first line of a mount table ever needs. */
const headBytes = 4_096;

/**
 * The mount tables of all mount namespaces that have a process, our own first: proc(5), `/proc/[pid]/mountinfo`.
 *
 * Everybody may read these, while the number of a namespace needs the right to trace its process: the first line tells one
 * table from the next, for the kernel gives the id of a mount to no other mount.
 *
 * They are read one by one, for most questions are answered by the first. Never touches a mount itself. Processes
 * that end meanwhile, or that may not be read, are passed over.
 */
export async function* readMountTables(): AsyncGenerator<string> {
  const seen = new Set<string>();
  yield* readTable('self', seen);
  for (const pid of await fs.readdir('/proc')) if (/^\d+$/.test(pid)) yield* readTable(pid, seen);
}

/** The table of a process, unless that of its mount namespace is among the `seen` ones, by their first lines. */
async function* readTable(pid: string, seen: Set<string>): AsyncGenerator<string> {
  const path = `/proc/${pid}/mountinfo`;
  let table: string;
  try {
    const firstLine = await readFirstLine(path);
    if (firstLine === '' || seen.has(firstLine)) return;
    table = await fs.readFile(path, 'utf8');
    seen.add(firstLine);
  } catch {
    return; // The process is gone.
  }
  yield table;
}

async function readFirstLine(path: string): Promise<string> {
  const file = await fs.open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(headBytes), 0, headBytes, 0);
    return buffer.toString('latin1', 0, bytesRead).split('\n', 1)[0]!;
  } finally {
    await file.close();
  }
}
