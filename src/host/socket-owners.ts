import { open } from 'node:fs/promises';
import { endianness } from 'node:os';
import {
  formatSocketKeys,
  parseSocketLine,
  type SocketAddress,
  type SocketOwner,
} from '../core/local-peer.ts';

/** The kernel's tables of TCP sockets of this network namespace, in the order they are searched. */
const tables = [
  { path: '/proc/self/net/tcp', family: 'tcp' },
  { path: '/proc/self/net/tcp6', family: 'tcp6' },
] as const;

/** A table that changes while it is read in pieces may leave out a line: looked for this often before it counts as gone. */
const passes = 3;
const pieceBytes = 64 * 1024;

/**
 * Finds the owners of the far ends of connections in our network namespace, in one go for all of them; null for one
 * that is in no table (any more).
 *
 * Reads in pieces, off the event loop: 100,000 sockets are 15 MB. Errors: those of reading the tables.
 *
 * @param connections far end and our end of each.
 */
export async function findSocketOwners(
  connections: readonly { far: SocketAddress; near: SocketAddress }[],
): Promise<(SocketOwner | null)[]> {
  const found: (SocketOwner | null)[] = connections.map(() => null);
  const keys = connections.map(({ far, near }) => formatSocketKeys(far, near, endianness()));
  for (let pass = 0; pass < passes; pass += 1) {
    for (const { path, family } of tables) {
      const wanted = new Map<string, number>();
      for (const [index, key] of keys.entries()) if (found[index] === null) wanted.set(key[family], index);
      if (wanted.size === 0) return found;
      await searchTable(path, wanted, (index, owner) => {
        found[index] = owner;
      });
    }
  }
  return found;
}

async function searchTable(
  path: string,
  wanted: Map<string, number>,
  onFound: (index: number, owner: SocketOwner) => void,
): Promise<void> {
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    // A kernel without IPv6 has no table of it.
    if (error.code === 'ENOENT' && path.endsWith('6')) return null;
    throw error;
  });
  if (file === null) return;
  try {
    const piece = Buffer.alloc(pieceBytes);
    let rest = '';
    for (;;) {
      const { bytesRead } = await file.read(piece, 0, pieceBytes, null);
      if (bytesRead === 0 || wanted.size === 0) return;
      const lines = (rest + piece.toString('latin1', 0, bytesRead)).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const socket = parseSocketLine(line);
        const index = socket === null ? undefined : wanted.get(socket.key);
        const owner = index === undefined ? null : socket!.readOwner();
        if (index === undefined || owner === null) continue;
        wanted.delete(socket!.key);
        onFound(index, owner);
      }
    }
  } finally {
    await file.close();
  }
}
