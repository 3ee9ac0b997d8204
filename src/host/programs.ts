import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { accessSync, constants as files, statSync } from 'node:fs';
import { constants } from 'node:os';
import { isAbsolute, join } from 'node:path';
import type { Readable } from 'node:stream';

/** Where system programs are when PATH does not name their directory. */
const systemDirectories = ['/sbin', '/usr/sbin', '/usr/local/sbin', '/bin', '/usr/bin'];

/** How long a program that was told to end may take before it is killed, and after that, in milliseconds. */
const termGraceMs = 1_000;
const killGraceMs = 10_000;

/** How long a pipe that a grandchild still holds is read after the program itself has ended. */
const drainMs = 200;

/** More output than this is cut off, in bytes for each stream. */
const maxOutputBytes = 64 * 1024;

/** How a program ended: by itself, by a signal that is not ours, at its deadline, or because the caller gave up. */
export type ProgramEnd =
  | { kind: 'exited'; status: number }
  | { kind: 'signalled'; signal: string }
  | { kind: 'timeout' }
  | { kind: 'aborted' };

export interface ProgramResult {
  end: ProgramEnd;
  stdout: string;
  stderr: string;
}

/** Path of a program: found through PATH first, then among the system programs; null if it is nowhere. */
export function findProgram(name: string, path: string | undefined): string | null {
  const directories = [...(path ?? '').split(':').filter(isAbsolute), ...systemDirectories];
  return directories.map((directory) => join(directory, name)).find(isExecutable) ?? null;
}

/**
 * Runs a program to its end, without a shell, its standard input closed.
 *
 * At the deadline, or when `signal` aborts, it gets SIGTERM, a second later SIGKILL, and is waited for: nothing it does
 * can happen after this has resolved, unless the kernel holds it for more than ten seconds beyond SIGKILL. One that
 * succeeds in spite of the signal counts as having succeeded.
 *
 * Units: `timeoutMs` in milliseconds, null for no deadline. Errors: that of spawn(2), untranslated: what it means, the caller knows.
 */
export function runProgram(
  file: string,
  args: readonly string[],
  limits: {
    timeoutMs: number | null;
    signal?: AbortSignal;
    environment: Readonly<Record<string, string | undefined>>;
    /** Descriptors of ours that it gets, from 3 on. */
    descriptors?: readonly number[];
  },
): Promise<ProgramResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      stdio: ['ignore', 'pipe', 'pipe', ...(limits.descriptors ?? [])],
      env: { ...limits.environment },
    }) as ChildProcessByStdio<null, Readable, Readable>;
    const stdout = collect(child.stdout);
    const stderr = collect(child.stderr);
    const timers: NodeJS.Timeout[] = [];
    let stopped: ProgramEnd | null = null;

    const stop = (why: ProgramEnd) => {
      if (stopped !== null) return;
      stopped = why;
      child.kill('SIGTERM');
      timers.push(setTimeout(() => child.kill('SIGKILL'), termGraceMs));
      timers.push(setTimeout(() => settle(why), termGraceMs + killGraceMs));
    };
    const onAbort = () => stop({ kind: 'aborted' });
    const forget = () => {
      for (const timer of timers) clearTimeout(timer);
      limits.signal?.removeEventListener('abort', onAbort);
    };
    const settle = (end: ProgramEnd) => {
      forget();
      child.stdout.destroy();
      child.stderr.destroy();
      resolve({ end, stdout: stdout(), stderr: stderr() });
    };

    child.once('error', (cause) => {
      forget();
      reject(cause);
    });
    child.once('exit', (status, signal) => {
      const end = nameEnd(status, signal, stopped);
      child.once('close', () => settle(end));
      timers.push(setTimeout(() => settle(end), drainMs));
    });
    if (limits.timeoutMs !== null) timers.push(setTimeout(() => stop({ kind: 'timeout' }), limits.timeoutMs));
    limits.signal?.addEventListener('abort', onAbort, { once: true });
    if (limits.signal?.aborted) onAbort();
  });
}

/**
 * Runs a program to its end with our own standard streams and gives its exit status; SIGTERM goes on to it when `signal`
 * aborts.
 *
 * Errors: that of spawn(2), untranslated.
 */
export function runAttached(
  file: string,
  args: readonly string[],
  limits: { signal: AbortSignal; environment: Readonly<Record<string, string | undefined>> },
): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { stdio: 'inherit', env: { ...limits.environment } });
    const onAbort = () => void child.kill('SIGTERM');
    limits.signal.addEventListener('abort', onAbort, { once: true });
    if (limits.signal.aborted) onAbort();
    child.once('error', reject);
    child.once('exit', (status, signal) => {
      limits.signal.removeEventListener('abort', onAbort);
      resolve(status ?? 128 + (constants.signals[signal as NodeJS.Signals] ?? 0));
    });
  });
}

function nameEnd(status: number | null, signal: string | null, stopped: ProgramEnd | null): ProgramEnd {
  if (status === 0) return { kind: 'exited', status };
  if (stopped !== null) return stopped;
  return status === null ? { kind: 'signalled', signal: signal ?? 'unknown' } : { kind: 'exited', status };
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = [];
  let bytes = 0;
  stream.on('data', (chunk: Buffer) => {
    if (bytes < maxOutputBytes) chunks.push(chunk.subarray(0, maxOutputBytes - bytes));
    bytes += chunk.length;
  });
  return () => Buffer.concat(chunks).toString('utf8');
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, files.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}
