import type { Socket } from 'node:net';
import { mayUseTunnel, type SocketAddress, type SocketOwner } from '../core/local-peer.ts';
import type { Clock, Log } from '../core/ports.ts';

/** Decides which local connections a tunnel takes. */
export interface LocalUsersCheck {
  /**
   * Whether whoever is on the other end of an accepted connection may use the tunnel. What is refused is logged.
   *
   * Errors: none; an owner that cannot be found out is refused.
   */
  admit(socket: Socket, fileSystemId: string): Promise<boolean>;
}

export interface LocalUsersPorts {
  clock: Clock;
  log: Log;
  /** Null = everybody. */
  allowedUids: ReadonlySet<number> | null;
  findSocketOwners(
    connections: readonly { far: SocketAddress; near: SocketAddress }[],
  ): Promise<(SocketOwner | null)[]>;
}

/** Connections that may wait for the look at the kernel's table; more come only from somebody who floods us. */
const maxPending = 1_024;
/** Refusals are logged at most this often, in milliseconds: else whoever is refused could fill the log. */
const logPauseMs = 60_000;

interface Pending {
  socket: Socket;
  fileSystemId: string;
  far: SocketAddress;
  near: SocketAddress;
  decide(admitted: boolean): void;
}

/** The table is read by one reader at a time; all connections that came meanwhile are looked up in the next pass. */
export function createLocalUsersCheck(ports: LocalUsersPorts): LocalUsersCheck {
  const { clock, log, allowedUids } = ports;
  let pending: Pending[] = [];
  let reading = false;
  let quietUntilMonoMs = Number.NEGATIVE_INFINITY;
  let unlogged = 0;

  function refuse(fileSystemId: string, why: { uid: number | null; reason: string }): void {
    unlogged += 1;
    if (clock.monoMs() < quietUntilMonoMs) return;
    log('warn', 'connection.refused', { fileSystem: fileSystemId, ...why, refused: unlogged });
    quietUntilMonoMs = clock.monoMs() + logPauseMs;
    unlogged = 0;
  }

  async function readAll(allowed: ReadonlySet<number>): Promise<void> {
    reading = true;
    while (pending.length > 0) {
      const batch = pending;
      pending = [];
      let owners: (SocketOwner | null)[] = [];
      let reason = 'the connection was closed at once';
      try {
        owners = await ports.findSocketOwners(batch);
      } catch (error) {
        reason = `its owner cannot be read: ${(error as NodeJS.ErrnoException).code ?? 'unknown error'}`;
      }
      for (const [index, { socket, fileSystemId, decide }] of batch.entries()) {
        const owner = owners[index] ?? null;
        const admitted = mayUseTunnel(owner, allowed);
        if (!admitted && owner?.held === true)
          refuse(fileSystemId, { uid: owner.uid, reason: 'this user may not use tunnels' });
        else if (!admitted && !socket.destroyed) refuse(fileSystemId, { uid: null, reason });
        decide(admitted);
      }
    }
    reading = false;
  }

  return {
    admit(socket, fileSystemId) {
      if (allowedUids === null) return Promise.resolve(true);
      const { remoteAddress, remotePort, localAddress, localPort } = socket;
      // A client that is gone already has no address.
      if (remoteAddress === undefined || localAddress === undefined) return Promise.resolve(false);
      if (pending.length >= maxPending) {
        refuse(fileSystemId, { uid: null, reason: `${maxPending} connections wait to be looked at` });
        return Promise.resolve(false);
      }
      return new Promise((decide) => {
        const far = { address: remoteAddress, port: remotePort! };
        pending.push({
          socket,
          fileSystemId,
          far,
          near: { address: localAddress, port: localPort! },
          decide,
        });
        if (!reading) void readAll(allowedUids);
      });
    },
  };
}
