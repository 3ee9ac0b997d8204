import type { Stats } from 'node:fs';
import { constants, open, stat } from 'node:fs/promises';

/** No file of ours is larger: bundles of roots have some hundred kilobytes, configurations of many accounts a few megabytes. */
const mostBytes = 16 * 1_048_576;
/** What a name stands for when nothing shall be read: `/dev/null`, on every Linux. */
const nullDevice = 0x103;

/**
 * The text of a file that an administrator, a caller or a variable names: of a regular one, however it is linked to, and of
 * `/dev/null`. Whatever else stands there is not even opened: a pipe would hold us up for ever, a device may do anything.
 *
 * Errors: those of stat(2), open(2) and read(2), with `code`; a `code` that is a phrase for what is no file or too large.
 */
export async function readRegularFile(path: string): Promise<string> {
  const found = await stat(path);
  if (found.rdev === nullDevice && found.isCharacterDevice()) return '';
  checkRegular(found);
  // Somebody may put something else there in between.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  try {
    checkRegular(await file.stat());
    return await file.readFile('utf8');
  } finally {
    await file.close();
  }
}

function checkRegular(found: Stats): void {
  if (found.isDirectory()) throw failure('EISDIR');
  if (!found.isFile()) throw failure('not a regular file');
  if (found.size > mostBytes) throw failure('larger than 16 MiB');
}

function failure(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(code), { code });
}
