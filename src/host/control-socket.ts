import { link, rename, rm } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { AgentError } from '../core/errors.ts';

/**
 * Opens the control socket, readable and writable by root only.
 *
 * Only one agent can have it: the socket is bound under a private name and linked to its place, which fails
 * if one is there; a socket that nobody answers on is taken away by renaming, which only one of two agents
 * that start at once can do.
 *
 * Errors: `agent.busy` when another agent answers there; `runtime-dir.unusable`.
 */
export async function openControlSocket(path: string): Promise<Server> {
  const own = `${path}.${process.pid}`;
  try {
    const server = await listen({ path: own });
    await linkOrReplace(own, path);
    await rm(own, { force: true });
    return server;
  } catch (error) {
    await rm(own, { force: true });
    if (error instanceof AgentError) throw error;
    throw new AgentError(
      'runtime-dir.unusable',
      `cannot open ${path}: ${(error as NodeJS.ErrnoException).code}`,
      { path },
      error,
    );
  }
}

/** Takes over the control socket that systemd opened. */
export function adoptControlSocket(fd: number): Promise<Server> {
  return listen({ fd });
}

async function linkOrReplace(own: string, path: string): Promise<void> {
  const busy = new AgentError('agent.busy', `another agent answers on ${path}`, { path });
  try {
    await link(own, path);
    return;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  if (await answers(path)) throw busy;
  const stale = `${own}.stale`;
  try {
    await rename(path, stale);
    if (await answers(stale)) {
      // Another agent put its socket there between our two looks: give it back.
      await link(stale, path).catch(() => {});
      throw busy;
    }
  } finally {
    await rm(stale, { force: true });
  }
  await link(own, path).catch(() => {
    throw busy;
  });
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

function listen(where: { path: string } | { fd: number }): Promise<Server> {
  const server = createServer();
  const previous = process.umask(0o177);
  return new Promise<Server>((resolve, reject) => {
    server.once('error', reject);
    server.listen(where, () => {
      server.off('error', reject);
      resolve(server);
    });
    // libuv binds inside listen(); the mode is decided here.
    process.umask(previous);
  });
}
