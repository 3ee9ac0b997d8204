// The wall clock of the enclosure: everything that is started from here on sees it moved, and only that.
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';

/** Needs the private /etc. */
export function openClock(directory) {
  const file = join(directory, 'clock');
  const library = join(directory, 'clock.so');
  writeFileSync(file, Buffer.alloc(8), { mode: 0o644 });
  execFileSync('cc', [
    ...['-O2', '-shared', '-fPIC', `-DOFFSET_FILE="${file}"`],
    ...['-o', library, join(import.meta.dirname, 'clock.c')],
  ]);
  writeFileSync('/etc/ld.so.preload', `${library}\n`);
  const descriptor = openSync(file, 'r+');
  let offsetSeconds = 0;
  return {
    /** Moves the clock by so many seconds. */
    advance(seconds) {
      offsetSeconds += seconds;
      const bytes = Buffer.alloc(8);
      bytes.writeBigInt64LE(BigInt(offsetSeconds));
      writeSync(descriptor, bytes, 0, 8, 0);
    },
    nowMs: () => Date.now() + offsetSeconds * 1000,
    close: () => closeSync(descriptor),
  };
}
