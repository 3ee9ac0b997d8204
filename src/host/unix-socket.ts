import { chmod, rename, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { AgentError } from '../core/errors.ts';

/**
 * Opens a unix socket for root and one group; null = for root alone.
 *
 * Errors: `runtime-dir.unusable`.
 */
export async function openGroupSocket(path: string, gid: number | null): Promise<Server> {
  const server = createServer();
  try {
    await listenForGroup(server, path, gid);
    return server;
  } catch (cause) {
    server.close();
    const { code } = cause as NodeJS.ErrnoException;
    throw new AgentError('runtime-dir.unusable', `cannot open ${path}: ${code}`, { path }, cause);
  }
}

/**
 * Listens on a unix socket for root and one group; null = for root alone. It takes the place of an earlier agent's in one
 * step: bound under a private name, opened to the group, renamed.
 *
 * Errors: those of bind(2), setegid(2), chmod(2) and rename(2), with `code`; then nothing is left behind.
 */
export async function listenForGroup(server: Server, path: string, gid: number | null): Promise<void> {
  const own = `${path}.${process.pid}`;
  await rm(own, { force: true });
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      // libuv binds inside listen(): the socket gets its group there, without the right to give files away.
      try {
        if (gid !== null) process.setegid!(gid);
        server.listen({ path: own }, () => {
          server.off('error', reject);
          resolve();
        });
      } finally {
        process.setegid!(process.getgid!());
      }
    });
    await chmod(own, gid === null ? 0o600 : 0o660);
    await rename(own, path);
  } catch (error) {
    await rm(own, { force: true });
    throw error;
  }
}

/** Takes a socket away when its agent leaves, or nobody may use it any more. Errors: none. */
export async function removeSocket(path: string): Promise<void> {
  await rm(path, { force: true }).catch(() => {});
}
