import type { MountSpec } from '../core/mount-spec.ts';
import { findNfsMount, parseMountInfo } from '../core/mountinfo.ts';
import { honoursReadAhead, planReadAheadKib } from '../core/nfs-options.ts';
import {
  readKernelRelease,
  readOwnMountTable,
  writeReadAhead,
  writeReadAheadLater,
} from '../host/own-mounts.ts';
import type { Caller } from './caller.ts';

/**
 * Sets the read-ahead of a new mount, and sets it again a little later where udev sets it to the kernel's value as
 * soon as the mount appears.
 *
 * Errors: none; a read-only /sys is no failure of the mount. Source: specification 7.6.
 */
export function setReadAhead(spec: MountSpec, mountPoint: string, verbose: boolean, caller: Caller): void {
  const kib = planReadAheadKib(spec.nfsOptions);
  const mount = findNfsMount(parseMountInfo(readOwnMountTable(caller.files)), mountPoint);
  if (kib === null || mount === null || !honoursReadAhead(readKernelRelease(caller.files))) return;
  try {
    writeReadAhead(caller.files, mount, kib);
    writeReadAheadLater(caller.files, mount, kib, caller.environment);
  } catch (thrown) {
    if (verbose)
      caller.writeError(`${caller.program}: read-ahead stays as it is: ${(thrown as Error).message}\n`);
  }
}
