import { type ChildProcess, spawn } from 'node:child_process';

export interface User {
  uid: number;
  gid: number;
}

/** Users that every Linux has, each with a group of its own. */
export const nobody: User = { uid: 65_534, gid: 65_534 };
export const daemon: User = { uid: 1, gid: 1 };

/** A program of Node as another user than ours. */
export function startAs(
  user: User,
  argv: string[],
  environment: NodeJS.ProcessEnv = {},
): { child: ChildProcess; stdout(): string; stderr(): string; ended: Promise<number | null> } {
  const child = spawn(process.execPath, argv, {
    ...user,
    cwd: '/',
    env: environment,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => (stdout += chunk));
  child.stderr.on('data', (chunk) => (stderr += chunk));
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  return { child, stdout: () => stdout, stderr: () => stderr, ended };
}

/** What such a program said, and how it ended. */
export async function runAs(
  user: User,
  argv: string[],
  environment?: NodeJS.ProcessEnv,
): Promise<{ status: number | null; stdout: string; stderr: string }> {
  const { ended, stdout, stderr } = startAs(user, argv, environment);
  return { status: await ended, stdout: stdout(), stderr: stderr() };
}
