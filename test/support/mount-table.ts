import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * A mount table with NFS mounts that no kernel has: that of a process in a mount namespace of its own, over whose
 * `/proc/<pid>/mountinfo` a file of ours is bound, in the namespaces of the agents that `wrapper` starts.
 */
export interface MountTable {
  readonly file: string;
  /** Put before an agent's command line. */
  readonly wrapper: readonly string[];
  /** Shell lines for a stand-in mount.nfs4: the mount it was called for appears in the table. */
  readonly mountScript: string;
  mountPoints(): string[];
  unmount(mountPoint: string): void;
  close(): void;
}

export async function openMountTable(directory: string): Promise<MountTable> {
  const file = join(directory, 'mountinfo');
  writeFileSync(file, '');
  const holder = spawn('unshare', ['-m', 'sh', '-c', 'echo there && exec cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await once(holder.stdout, 'data');
  const lines = () => readFileSync(file, 'utf8').split('\n').filter(Boolean);
  return {
    file,
    wrapper: [
      'unshare',
      '-m',
      'sh',
      '-c',
      `mount --bind ${file} /proc/${holder.pid}/mountinfo && exec "$@"`,
      'sh',
    ],
    mountScript: [
      `port=$(printf '%s' "$*" | sed 's/.*port=\\([0-9]*\\).*/\\1/')`,
      `echo "36 25 0:55 / $2 rw,relatime shared:1 - nfs4 $1 rw,vers=4.1,port=$port,addr=127.0.0.1" >>${file}`,
    ].join('\n'),
    mountPoints: () => lines().map((line) => line.split(' ')[4]!),
    unmount(mountPoint) {
      const kept = lines().filter((line) => line.split(' ')[4] !== mountPoint);
      // In place: what is bound is the file, not its name.
      writeFileSync(file, kept.map((line) => `${line}\n`).join(''));
    },
    close: () => holder.stdin.end(),
  };
}

/** Whether this process may make mount namespaces. */
export const canUnshare = succeeds('unshare', '-m', 'true');

export function succeeds(program: string, ...argv: string[]): boolean {
  try {
    execFileSync(program, argv, { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}
