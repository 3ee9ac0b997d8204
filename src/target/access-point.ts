import { chmodSync, chownSync, mkdirSync, realpathSync, statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';

/** An access point: a directory of a file system as root, and the POSIX user all operations are done as. */
export interface AccessPoint {
  id: string;
  fileSystemId: string;
  /** Absolute inside the file system, without `.` and `..`. */
  path: string;
  user: { uid: number; gid: number } | null;
  /** Permissions of the root directory when it has to be made; null = it must exist. */
  createMode: number | null;
}

/**
 * Finds the root directory of an access point, and makes it if the access point says how.
 *
 * Returns null when there is no such directory, or when it leads out of the file system: an NFS client
 * can put a symbolic link anywhere.
 */
export function openAccessPointRoot(accessPoint: AccessPoint, fileSystemDirectory: string): string | null {
  const top = realpathSync(fileSystemDirectory);
  const wanted = join(top, accessPoint.path);
  try {
    if (
      accessPoint.createMode !== null &&
      accessPoint.user !== null &&
      isInside(nearestExisting(wanted), top)
    ) {
      makeDirectory(wanted, accessPoint.user, accessPoint.createMode);
    }
    const found = realpathSync(wanted);
    return isInside(found, top) && statSync(found).isDirectory() ? found : null;
  } catch {
    return null;
  }
}

function makeDirectory(directory: string, { uid, gid }: { uid: number; gid: number }, mode: number): void {
  if (mkdirSync(directory, { recursive: true, mode: 0o755 }) === undefined) return;
  chownSync(directory, uid, gid);
  // Not by mkdir, whose mode the umask cuts down.
  chmodSync(directory, mode);
}

function nearestExisting(path: string): string {
  try {
    return realpathSync(path);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code !== 'ENOENT') throw thrown;
    return nearestExisting(dirname(path));
  }
}

function isInside(path: string, top: string): boolean {
  const way = relative(top, path);
  return way !== '..' && !way.startsWith('../');
}
