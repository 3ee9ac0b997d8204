import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';

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
  const passwd = await readFile('/etc/passwd', 'utf8').catch(() => '');
  const lines = passwd.split('\n').map((line) => line.split(':'));
  const entry =
    lines.find((fields) => fields[0] === name) ?? lines.find((fields) => fields[0] === fallbackUser);
  const uid = Number(entry?.[2] ?? 65534);
  const gid = Number(entry?.[3] ?? 65534);
  return uid > 0 && gid > 0 ? { uid, gid } : { uid: 65534, gid: 65534 };
}

/** Our own home directory; `/` for a user that the machine does not know, as containers have them. Errors: none. */
export function readHomeDirectory(): string {
  try {
    return homedir();
  } catch {
    return '/';
  }
}
