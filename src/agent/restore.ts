import { asAgentError } from '../core/errors.ts';
import type { EventName } from '../core/events.ts';
import { decideRecorded } from '../core/mount-life.ts';
import {
  chooseMountState,
  formatMountState,
  isSameServer,
  type MountRecord,
  type MountState,
} from '../core/mount-state.ts';
import { findNfsMounts, findTunnelMounts, type MountEntry, tunnelPortOf } from '../core/mountinfo.ts';
import type { Log } from '../core/ports.ts';

export interface RestorerPorts {
  log: Log;
  stateFiles: {
    write(mountId: string, text: string): Promise<void>;
    remove(mountId: string): Promise<void>;
    read(): Promise<{ mountId: string; records: MountRecord[] }[]>;
    setAside(path: string): Promise<void>;
  };
  /** Errors: `internal`, or that of reading. */
  readTables(): Promise<MountEntry[][]>;
  isServed(mountId: string): boolean;
  isServedPort(port: number): boolean;
  /** Whether whoever makes the mount, or its mount.nfs4, is still at work. */
  findCaller(state: MountState): Promise<boolean>;
  /** What serves recorded mounts on their ports; files that several of them need are read once. */
  prepare(): Serve;
}

/** Errors: `config.*`, `ca-file.unreadable`, `port.taken`. */
type Serve = (state: MountState, phase: 'mounting' | 'mounted') => Promise<void>;

/** Takes up the mounts of an earlier agent that are recorded. */
export interface Restorer {
  /** Errors: none; a mount that cannot be served yet is tried again by each `retry`. */
  restore(): Promise<void>;
  /** Errors: none. */
  retry(): Promise<void>;
  /** Whether a mount that this agent does not serve uses the port. */
  isReserved(port: number): boolean;
}

export function createRestorer(ports: RestorerPorts): Restorer {
  const { log, stateFiles } = ports;
  /** Recorded, and not served yet. */
  let pending: MountState[] = [];
  const reserved = new Set<number>();

  /** Null when the tables cannot be read: then no mount counts as gone. */
  async function readTables(): Promise<MountEntry[][] | null> {
    return ports.readTables().catch((error: unknown) => {
      log('error', 'mount-tables.unreadable', { error: asAgentError(error).message });
      return null;
    });
  }

  /** Errors: none: a disk that takes nothing more keeps no mount from being served. */
  async function attempt(event: EventName, mountId: string, work: Promise<void>): Promise<void> {
    await work.catch((error: unknown) =>
      log('error', event, { tunnel: mountId, error: asAgentError(error).message }),
    );
  }

  async function readRecords(): Promise<MountState[]> {
    const states: MountState[] = [];
    const files = await stateFiles.read().catch((error: unknown) => {
      log('error', 'state-files.unreadable', { error: asAgentError(error).message });
      return [];
    });
    for (const { mountId, records } of files) {
      if (ports.isServed(mountId)) continue;
      const { state, damaged } = chooseMountState(records);
      for (const { path, reason } of damaged) {
        log('warn', 'state-file.damaged', { tunnel: mountId, path, reason });
        await attempt('state-file.not-set-aside', mountId, stateFiles.setAside(path));
      }
      if (state === null) {
        log('error', 'mount.record-lost', {
          tunnel: mountId,
          hint: 'Nothing tells any more how it was mounted: if it still is, unmount it (umount -f) and mount it again.',
        });
        continue;
      }
      states.push(state);
      if (damaged.length > 0)
        await attempt('state-file.not-written', mountId, stateFiles.write(mountId, formatMountState(state)));
    }
    return states;
  }

  /** @param beingMade those whose callers answered, before the tables are read: what ends afterwards is in them. */
  async function serveAll(
    recorded: readonly MountState[],
    beingMade: ReadonlySet<MountState>,
  ): Promise<void> {
    const tables = await readTables();
    const serve = ports.prepare();
    pending = [];
    reserved.clear();
    for (const state of recorded) {
      const { mountId, port } = state;
      const fate = decideRecorded({
        inTables: tables === null ? null : isMounted(state, tables),
        mayCarryAnother: tables !== null && hasSibling(state, recorded, tables),
        callerIsThere: beingMade.has(state),
      });
      if (fate === 'gone') {
        await attempt('state-file.not-removed', mountId, stateFiles.remove(mountId));
        continue;
      }
      try {
        await serve(state, fate);
        log('info', 'mount.restored', { tunnel: mountId, fileSystem: state.fileSystemId, port });
      } catch (error) {
        const { code, message } = asAgentError(error);
        log('error', 'mount.not-restored', { tunnel: mountId, port, code, error: message });
        pending.push(state);
      }
    }
    for (const entry of (tables ?? []).flat()) {
      const port = tunnelPortOf(entry);
      if (port !== null && !ports.isServedPort(port)) reserved.add(port);
    }
  }

  return {
    async restore() {
      const recorded = await readRecords();
      const beingMade = new Set<MountState>();
      for (const state of recorded) if (await ports.findCaller(state)) beingMade.add(state);
      await serveAll(recorded, beingMade);
    },
    async retry() {
      if (pending.length > 0 || reserved.size > 0) await serveAll(pending, new Set());
    },
    isReserved: (port) => reserved.has(port),
  };
}

/** Whether the kernel has another mount of its server, which its tunnel may carry. */
function hasSibling(
  state: MountState,
  recorded: readonly MountState[],
  tables: readonly MountEntry[][],
): boolean {
  return (
    state.port !== null && recorded.some((other) => isSameServer(other, state) && isMounted(other, tables))
  );
}

function isMounted({ port, mountPoint }: MountState, tables: readonly MountEntry[][]): boolean {
  return tables.some(
    (entries) =>
      (port === null ? findNfsMounts(entries, mountPoint) : findTunnelMounts(entries, port)).length > 0,
  );
}
