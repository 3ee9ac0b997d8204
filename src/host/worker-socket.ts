import { chmod, rename, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { AgentError } from '../core/errors.ts';

/** Where workers that outlived their agent find the next one. */
export function workerSocketPath(directory: string): string {
  return join(directory, 'workers.sock');
}

/**
 * Opens the socket on which workers of an earlier agent call; for root and their group alone.
 *
 * It takes the place of the earlier agent's in one step: there is one agent for a runtime directory.
 *
 * Errors: `runtime-dir.unusable`.
 */
export async function openWorkerSocket(directory: string, owner: { gid: number } | null): Promise<Server> {
  const path = workerSocketPath(directory);
  const own = `${path}.${process.pid}`;
  const server = createServer();
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      // libuv binds inside listen(): the socket gets the workers' group there, without the right to give files away.
      if (owner !== null) process.setegid!(owner.gid);
      server.listen(own, () => resolve());
      if (owner !== null) process.setegid!(process.getgid!());
    });
    await chmod(own, owner === null ? 0o600 : 0o660);
    await rename(own, path);
    return server;
  } catch (cause) {
    server.close();
    await rm(own, { force: true });
    const { code } = cause as NodeJS.ErrnoException;
    throw new AgentError('runtime-dir.unusable', `cannot open ${path}: ${code}`, { path }, cause);
  }
}
