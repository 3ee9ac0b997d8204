import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import type { LocalUsers } from '../core/local-peer.ts';

/** Used where the named user does not exist, as in containers and fresh checkouts. */
const fallbackUser = 'nobody';

/**
 * The numbers of an unprivileged user: the named one, else `nobody`; null when we are not root and cannot
 * change to anyone.
 *
 * Errors: none; a machine without either gives 65534, the kernel's overflow id.
 */
export async function readUnprivilegedUser(name: string): Promise<{ uid: number; gid: number } | null> {
  if (process.getuid?.() !== 0) return null;
  const lines = await readPasswd();
  const entry =
    lines.find((fields) => fields[0] === name) ?? lines.find((fields) => fields[0] === fallbackUser);
  const uid = Number(entry?.[2] ?? 65534);
  const gid = Number(entry?.[3] ?? 65534);
  return uid > 0 && gid > 0 ? { uid, gid } : { uid: 65534, gid: 65534 };
}

/**
 * The numbers of the users that may use tunnels: root, the user this agent runs as, and those listed, by name or number;
 * null = everybody.
 *
 * Errors: none; a name that /etc/passwd does not have is told to `onUnknown`.
 */
export async function readAllowedUids(
  users: LocalUsers,
  onUnknown: (name: string) => void,
): Promise<ReadonlySet<number> | null> {
  if (users.kind === 'any') return null;
  const uids = new Set([0, process.getuid?.() ?? 0]);
  const lines = await readPasswd();
  for (const name of users.names) {
    const uid = /^\d+$/.test(name) ? name : lines.find((fields) => fields[0] === name)?.[2];
    if (uid === undefined) onUnknown(name);
    else uids.add(Number(uid));
  }
  return uids;
}

/** The number of a group; null when /etc/group does not have it. Errors: none. */
export async function readGroupId(name: string): Promise<number | null> {
  const entry = (await readTable('/etc/group')).find((fields) => fields[0] === name);
  return entry === undefined ? null : Number(entry[2]);
}

/** Our own home directory; `/` for a user that the machine does not know, as containers have them. Errors: none. */
export function readHomeDirectory(): string {
  try {
    return homedir();
  } catch {
    return '/';
  }
}

function readPasswd(): Promise<string[][]> {
  return readTable('/etc/passwd');
}

async function readTable(path: string): Promise<string[][]> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.split('\n').map((line) => line.split(':'));
}
