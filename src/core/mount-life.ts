/**
 * Where a mount is in its life, as its agent sees it.
 *
 * `opening`: its listener is bound, nothing is recorded. `mounting`: recorded, and the caller runs mount.nfs4. `mounted`: the
 * kernel may have it; kept until it is seen to be gone. `tunnel`: a tunnel for a command that mounts nothing. `closing`:
 * listener, tunnel and record go, and it never comes back.
 */
export type MountPhase = 'opening' | 'mounting' | 'mounted' | 'tunnel' | 'closing';

/** What was seen of a mount; `inTables` null = the mount tables could not be read. */
export interface MountSight {
  inTables: boolean | null;
  /** Connections of the kernel, also those that wait for a worker. */
  connections: number;
  /** The kernel talks to one server through one connection: it may come back here for another mount of that server. */
  mayCarryAnother: boolean;
}

export type MountEvent =
  /** The record is written: from now on another agent would find the mount. */
  | { kind: 'recorded' }
  /** The tunnel of a command is ready. */
  | { kind: 'kept' }
  /** Something before mount.nfs4 failed: the kernel knows nothing of it. */
  | { kind: 'failed' }
  | { kind: 'mount-succeeded' }
  /** mount.nfs4 has ended, and says that it failed. */
  | { kind: 'mount-failed'; inTables: MountSight['inTables'] }
  /** The caller is gone; so is its mount.nfs4, unless it is one that cannot be called. */
  | { kind: 'caller-gone'; inTables: MountSight['inTables']; connections: number }
  | { kind: 'looked'; sight: MountSight };

/**
 * One step in the life of a mount. A mount that the kernel may have is never closed, whoever says that it failed: a listener
 * that is gone hangs the mount, and its port could be given to another.
 *
 * Errors: none; an event that does not belong to the phase changes nothing.
 */
export function decideMount(phase: MountPhase, event: MountEvent): MountPhase {
  switch (event.kind) {
    case 'recorded':
      return phase === 'opening' ? 'mounting' : phase;
    case 'kept':
      return phase === 'opening' ? 'tunnel' : phase;
    case 'failed':
      return phase === 'opening' ? 'closing' : phase;
    case 'mount-succeeded':
      return phase === 'mounting' ? 'mounted' : phase;
    case 'mount-failed':
      if (phase !== 'mounting') return phase;
      return event.inTables === false ? 'closing' : 'mounted';
    case 'caller-gone':
      if (phase === 'tunnel' || phase === 'opening') return 'closing';
      if (phase !== 'mounting') return phase;
      return event.inTables === false && event.connections === 0 ? 'closing' : 'mounted';
    case 'looked': {
      const { inTables, connections, mayCarryAnother } = event.sight;
      const isGone = inTables === false && connections === 0 && !mayCarryAnother;
      return phase === 'mounted' && isGone ? 'closing' : phase;
    }
  }
}

/** What an agent sees of a recorded mount of an earlier one. */
export interface RecordSight {
  inTables: MountSight['inTables'];
  /** Another mount of the same server is in the tables: the kernel may use this tunnel for it. */
  mayCarryAnother: boolean;
  /** Whoever makes the mount answered a call: that one, or its mount.nfs4, is still at work. */
  callerIsThere: boolean;
}

/**
 * What becomes of a recorded mount. One that is being made is not in the tables yet, and nobody else may get its port: it goes
 * on to be made.
 */
export function decideRecorded({
  inTables,
  mayCarryAnother,
  callerIsThere,
}: RecordSight): 'mounting' | 'mounted' | 'gone' {
  if (callerIsThere) return 'mounting';
  return inTables === false && !mayCarryAnother ? 'gone' : 'mounted';
}
