import { asAgentError } from '../core/errors.ts';
import type { EventName } from '../core/events.ts';
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
  /** Serves a recorded mount, on its port. Errors: `config.*`, `ca-file.unreadable`, `port.taken`. */
  serve(state: MountState): Promise<void>;
}

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

  async function serve(recorded: readonly MountState[]): Promise<void> {
    const tables = await readTables();
    pending = [];
    reserved.clear();
    for (const state of recorded) {
      const { mountId, port } = state;
      if (tables !== null && !isWanted(state, recorded, tables)) {
        await attempt('state-file.not-removed', mountId, stateFiles.remove(mountId));
        continue;
      }
      try {
        await ports.serve(state);
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
      await serve(await readRecords());
    },
    async retry() {
      if (pending.length > 0 || reserved.size > 0) await serve(pending);
    },
    isReserved: (port) => reserved.has(port),
  };
}

/** Whether the kernel has the mount, or another one of its server, which its tunnel may carry. */
function isWanted(
  state: MountState,
  recorded: readonly MountState[],
  tables: readonly MountEntry[][],
): boolean {
  if (isMounted(state, tables)) return true;
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
