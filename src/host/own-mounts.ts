import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AgentError } from '../core/errors.ts';
import { findProgram, runProgram } from './programs.ts';

/** Where Linux shows this process its mounts and their read-ahead. */
export interface KernelFiles {
  mountInfo: string;
  bdi: string;
  kernelRelease: string;
  /** Is there where systemd is process 1. */
  systemd: string;
  /** The program of nfs-utils that udev runs for each new NFS mount, which sets its read-ahead again. */
  readAheadResetter: string;
}

export const kernelFiles: KernelFiles = {
  mountInfo: '/proc/self/mountinfo',
  bdi: '/sys/class/bdi',
  kernelRelease: '/proc/sys/kernel/osrelease',
  systemd: '/run/systemd/system',
  readAheadResetter: '/usr/libexec/nfsrahead',
};

/** The mount table of this process's own mount namespace. Never touches a mount itself. Errors: `internal`. */
export function readOwnMountTable(files: KernelFiles): string {
  try {
    return readFileSync(files.mountInfo, 'utf8');
  } catch (cause) {
    throw new AgentError('internal', `cannot read ${files.mountInfo}`, {}, cause);
  }
}

/**
 * Sets the read-ahead of a mounted file system.
 *
 * Units: KiB. Errors: that of the write, untranslated: a read-only /sys is no failure of the mount.
 * Source: specification 7.6.
 */
export function writeReadAhead(
  files: KernelFiles,
  device: { major: number; minor: number },
  kib: number,
): void {
  writeFileSync(readAheadPath(files, device), `${kib}\n`, { flag: 'r+' });
}

/**
 * Sets it once more two seconds later, in a process of its own, where udev would have the last word.
 *
 * Units: KiB. Source: nfs-utils, 99-nfs.rules; specification 7.6 (there for Ubuntu 24 alone).
 */
export function writeReadAheadLater(
  files: KernelFiles,
  device: { major: number; minor: number },
  kib: number,
  environment: Readonly<Record<string, string | undefined>>,
): void {
  if (!existsSync(files.readAheadResetter)) return;
  const script = 'sleep 2; echo "$1" >"$2"';
  const child = spawn('/bin/sh', ['-c', script, 'sh', String(kib), readAheadPath(files, device)], {
    detached: true,
    stdio: 'ignore',
    cwd: '/',
    env: { PATH: environment['PATH'] },
  });
  child.on('error', () => {});
  child.unref();
}

/** The kernel's release, as uname(1) -r writes it; empty when it cannot be read. */
export function readKernelRelease(files: KernelFiles): string {
  try {
    return readFileSync(files.kernelRelease, 'utf8').trim();
  } catch {
    return '';
  }
}

function readAheadPath(files: KernelFiles, device: { major: number; minor: number }): string {
  return join(files.bdi, `${device.major}:${device.minor}`, 'read_ahead_kb');
}

export type Directory =
  | { kind: 'directory'; path: string }
  | { kind: 'missing' | 'not-directory' | 'silent' };

/**
 * Resolves a directory's path without links.
 *
 * A child process looks, because on a dead NFS mount the look itself never ends, and a thread of ours that hangs
 * would keep us from ending; `silent` when it does not answer in time.
 *
 * Units: milliseconds.
 */
export async function resolveDirectory(
  path: string,
  timeoutMs: number,
  environment: Readonly<Record<string, string | undefined>>,
): Promise<Directory> {
  const shell = findProgram('sh', environment['PATH']) ?? '/bin/sh';
  const script = 'cd -P -- "$1" 2>&- && exec pwd -P; test -e "$1" && exit 3; exit 4';
  const { end, stdout } = await runProgram(shell, ['-c', script, 'sh', path], { timeoutMs, environment });
  if (end.kind !== 'exited') return { kind: 'silent' };
  if (end.status === 0) return { kind: 'directory', path: stdout.replace(/\n$/, '') };
  return { kind: end.status === 3 ? 'not-directory' : 'missing' };
}
