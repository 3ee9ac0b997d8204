import { readdir, rm, stat } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { callerSocketPath } from './runtime-dir.ts';

/** A socket on which whoever mounts listens until the kernel has mounted or refused. */
export interface CallerSocket {
  readonly name: string;
  /** For mount.nfs4, which thereby outlives its caller visibly: as long as one of the two has it, a call is answered. */
  readonly fd: number;
  close(): void;
}

/** A caller that listens has begun to within this time, with much to spare, in milliseconds. */
const beginMs = 600_000;

/**
 * Opens a socket in a directory that is root's alone, and tells of each agent that calls.
 *
 * Errors: none; null where there can be none, as beside an agent that calls nobody.
 *
 * @param random gives numbers in [0, 1): the name shall be that of no other caller.
 */
export function openCallerSocket(
  directory: string,
  random: () => number,
  onCall: (agent: Socket) => void,
): Promise<CallerSocket | null> {
  const half = () =>
    Math.floor(random() * 2 ** 32)
      .toString(16)
      .padStart(8, '0');
  const name = half() + half();
  const server = createServer(onCall);
  return new Promise((resolve) => {
    server.once('error', () => resolve(null));
    server.listen(callerSocketPath(directory, name), () =>
      resolve({ name, fd: descriptorOf(server), close: () => void server.close() }),
    );
  });
}

/** Calls whoever mounts; null when neither that process nor its mount.nfs4 is there any more. */
export function callCaller(directory: string, name: string): Promise<Socket | null> {
  return new Promise((resolve) => {
    const socket = connect(callerSocketPath(directory, name));
    socket.once('connect', () => {
      socket.removeAllListeners('error');
      socket.on('error', () => socket.destroy());
      resolve(socket);
    });
    socket.once('error', () => resolve(null));
  });
}

/** Removes the socket of a caller that has ended, or needs it no more. Errors: none: what is left serves nobody. */
export async function removeCallerSocket(directory: string, name: string): Promise<void> {
  await rm(callerSocketPath(directory, name), { force: true }).catch(() => {});
}

/** Removes the sockets of callers that were killed before anything was recorded of them. Errors: none. */
export async function removeForgottenCallerSockets(directory: string, nowMs: number): Promise<void> {
  for (const name of await readdir(callerSocketPath(directory, '')).catch(() => [])) {
    const made = await stat(callerSocketPath(directory, name)).catch(() => null);
    if (made === null || nowMs - made.mtimeMs < beginMs) continue;
    const caller = await callCaller(directory, name);
    if (caller === null) await removeCallerSocket(directory, name);
    else caller.destroy();
  }
}

/** Node has no other name for the descriptor of a listening socket. */
function descriptorOf(server: Server): number {
  return (server as unknown as { _handle: { fd: number } })._handle.fd;
}
