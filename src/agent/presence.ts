import { indexNfsMounts, isInIndex, type NfsIndex, parseMountInfo } from '../core/mountinfo.ts';
import type { Mount } from './tunnel.ts';

/**
 * Where a mount is, as far as the kernel's mount tables have told so far.
 *
 * `unseen`: in none that we could read up to now; it may be in a namespace that is hidden from us. `gone`: it was in
 * one, and is in none any more.
 */
export type Sighting = 'unseen' | 'there' | 'gone';

/** Compares the mounts with the kernel's mount tables. */
export interface Presence {
  /**
   * Reads tables until each of the mounts is found, and gives those that were read: all of them when one is missing.
   *
   * Errors: `internal` for a table that cannot be read.
   */
  look(mounts: readonly Mount[]): Promise<NfsIndex[]>;
  of(mount: Mount): Sighting;
}

export function createPresence(readMountTables: () => AsyncIterable<string>): Presence {
  const sightings = new WeakMap<Mount, Sighting>();
  const sightingOf = (mount: Mount) => sightings.get(mount) ?? 'unseen';
  return {
    async look(mounts) {
      const missing = new Set(mounts);
      const tables: NfsIndex[] = [];
      if (missing.size === 0) return tables;
      for await (const text of readMountTables()) {
        const table = indexNfsMounts(parseMountInfo(text));
        tables.push(table);
        for (const mount of missing) {
          if (!isMountedIn(table, mount)) continue;
          missing.delete(mount);
          sightings.set(mount, 'there');
        }
        if (missing.size === 0) break;
      }
      for (const mount of missing) if (sightingOf(mount) === 'there') sightings.set(mount, 'gone');
      return tables;
    },
    of: sightingOf,
  };
}

export function isMountedIn(table: NfsIndex, { port, plan }: Mount): boolean {
  return isInIndex(table, { port, mountPoint: plan.mountPoint });
}
