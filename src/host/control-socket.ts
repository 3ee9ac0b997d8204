import { link, lstat, rename, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { AgentError } from '../core/errors.ts';

/**
 * Opens the control socket, readable and writable by root only.
 *
 * Only one agent can have it: the socket is bound under a private name and linked to its place, which fails
 * if one is there; one that nobody answers on is replaced by renaming, by the one agent that holds the claim on it.
 *
 * Errors: `agent.busy` when another agent answers there; `runtime-dir.unusable`.
 */
export async function openControlSocket(path: string): Promise<Server> {
  const own = `${path}.${process.pid}`;
  try {
    const server = await listen({ path: own });
    await takePlace(own, path);
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

/** Links our socket to a place, or puts it over one that nobody answers on. */
async function takePlace(own: string, path: string): Promise<void> {
  if (await linkUnlessThere(own, path)) return;
  const stale = await identify(path);
  if (stale === null) return takePlace(own, path);
  if (await answers(path)) throw busy(path);
  // Who holds this name may replace this very socket, and nobody else: of agents that start at once, one gets it.
  const claim = `${path}.${stale}`;
  await takePlace(own, claim);
  if ((await identify(path)) !== stale) {
    await rm(claim, { force: true });
    throw busy(path);
  }
  // Both at once: our socket is in its place, and the claim is given up.
  await rename(claim, path);
}

async function linkUnlessThere(own: string, path: string): Promise<boolean> {
  try {
    await link(own, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

/** Tells one socket from the next in the same place; null when none is there. */
async function identify(path: string): Promise<string | null> {
  try {
    const { ino, mtimeNs } = await lstat(path, { bigint: true });
    return `${ino}-${mtimeNs}`;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

function busy(path: string): AgentError {
  return new AgentError('agent.busy', `another agent answers on ${path}`, { path });
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    // Any other error, such as that of a full queue, comes from a socket that somebody serves.
    socket.once('error', (error: NodeJS.ErrnoException) =>
      resolve(!['ECONNREFUSED', 'ENOENT', 'ENOTSOCK'].includes(error.code ?? '')),
    );
  });
}

function listen(where: { path: string } | { fd: number }): Promise<Server> {
  const server = createServer();
  keepEarlyConnections(server);
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

/** A client that connects before anyone serves the socket is served first, instead of waiting for an answer in vain. */
function keepEarlyConnections(server: Server): void {
  const early: Socket[] = [];
  const keep = (socket: Socket) => {
    socket.on('error', () => {});
    early.push(socket);
  };
  const release = (event: string | symbol) => {
    if (event !== 'connection') return;
    server.off('newListener', release);
    server.off('connection', keep);
    process.nextTick(() => {
      for (const socket of early) server.emit('connection', socket);
    });
  };
  server.on('connection', keep);
  server.on('newListener', release);
}
