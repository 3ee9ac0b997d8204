import { constants, readdirSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { AgentError } from '../core/errors.ts';
import { readRegularFile } from './regular-file.ts';

/** Where sockets and state files live; another place through `EFS_AGENT_RUNTIME_DIR`. */
export function runtimeDir(environment: Readonly<Record<string, string | undefined>>): string {
  return environment['EFS_AGENT_RUNTIME_DIR'] || '/run/efs-agent';
}

/** The runtime directory of the agent in another network namespace. */
export function networkNamespaceDirectory(directory: string, namespace: number): string {
  return join(directory, 'netns', String(namespace));
}

/** All of them that are there. Errors: none. */
export function networkNamespaceDirectories(directory: string): string[] {
  try {
    return readdirSync(join(directory, 'netns')).map((name) => join(directory, 'netns', name));
  } catch {
    return [];
  }
}

/** Path of the agent's control socket. */
export function controlSocketPath(directory: string): string {
  return join(directory, 'control.sock');
}

/** Path of the socket on which a group may ask for the status. */
export function statusSocketPath(directory: string): string {
  return join(directory, 'status.sock');
}

/** Path of the socket on which workers that outlived their agent find the next one. */
export function workerSocketPath(directory: string): string {
  return join(directory, 'workers.sock');
}

/** Where callers that mount listen for an agent that calls them. */
export function callerSocketPath(directory: string, name: string): string {
  return join(directory, 'callers', name);
}

/**
 * Makes the runtime directory (0755, so that each socket's own mode decides) and the directories of the state files and of the
 * callers' sockets (0700).
 *
 * Errors: `runtime-dir.unusable`.
 */
export async function createRuntimeDir(directory: string): Promise<void> {
  await explain(directory, async () => {
    const first = await fs.mkdir(directory, { recursive: true });
    // The umask of the agent closes what it makes.
    for (let made = directory; first !== undefined && made.startsWith(first); made = dirname(made))
      await fs.chmod(made, 0o755);
    await claimDirectory(directory, 0o022);
    for (const place of [...stateDirs(directory), callerSocketPath(directory, '')]) {
      await fs.mkdir(place, { recursive: true, mode: 0o700 });
      await claimDirectory(place, 0o077);
    }
  });
}

/**
 * Makes sure that nobody else can put anything into a directory that we write to: it is a directory and no link, it is
 * ours or root's, and the `unwanted` permissions go, as far as it is ours (an `emptyDir` of Kubernetes is open to all).
 *
 * Errors: `runtime-dir.unusable`.
 */
async function claimDirectory(path: string, unwanted: number): Promise<void> {
  const own = process.geteuid?.() ?? 0;
  const { uid, mode } = await fs.lstat(path);
  const refuse = (why: string) =>
    new AgentError('runtime-dir.unusable', `cannot use ${path}: ${why}`, { path });
  if ((mode & constants.S_IFMT) !== constants.S_IFDIR) throw refuse('it is not a directory');
  if (uid !== own && uid !== 0) throw refuse(`it belongs to user ${uid}, who could put anything there`);
  if (uid === own && (mode & unwanted) !== 0) await fs.chmod(path, mode & 0o7777 & ~unwanted);
}

/**
 * Writes a state file and its copy, each whole: temporary name, fsync, rename.
 *
 * Errors: `runtime-dir.unusable` (full, read-only); what was written before is left to `removeStateFile`.
 */
export async function writeStateFile(directory: string, mountId: string, text: string): Promise<void> {
  for (const place of stateDirs(directory)) await writeWhole(directory, stateFile(place, mountId), text);
}

/** Writes a file of the runtime directory. Errors: `runtime-dir.unusable`; then there is what was there before. */
export async function writeWhole(directory: string, path: string, text: string): Promise<void> {
  const temporary = `${path}.new`;
  await explain(directory, async () => {
    const { O_WRONLY, O_CREAT, O_TRUNC, O_NOFOLLOW, O_NONBLOCK } = constants;
    // Not blocking: a pipe in its place would hold us up until somebody reads from it.
    const file = await fs.open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_NONBLOCK, 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
      await fs.rename(temporary, path);
    } catch (error) {
      await fs.rm(temporary, { force: true }).catch(() => {});
      throw error;
    } finally {
      await file.close();
    }
  });
}

/** Removes a state file and its copy; what is not there is fine. Errors: `runtime-dir.unusable`. */
export async function removeStateFile(directory: string, mountId: string): Promise<void> {
  await explain(directory, async () => {
    for (const place of stateDirs(directory)) await fs.rm(stateFile(place, mountId), { force: true });
  });
}

/**
 * What is recorded about each mount, in the state file and its copy.
 *
 * Errors: `runtime-dir.unusable`; a directory that is not there has no files, a file that cannot be read has no text.
 */
export async function readStateFiles(
  directory: string,
): Promise<{ mountId: string; records: { path: string; text: string | null }[] }[]> {
  const recorded = new Map<string, { path: string; text: string | null }[]>();
  for (const place of stateDirs(directory)) {
    for (const name of await listFiles(directory, place)) {
      const path = join(place, name);
      if (!name.endsWith('.json')) continue;
      const mountId = name.slice(0, -5);
      const records = recorded.get(mountId) ?? [];
      recorded.set(mountId, [...records, { path, text: await readRegularFile(path).catch(() => null) }]);
    }
  }
  return [...recorded].map(([mountId, records]) => ({ mountId, records }));
}

async function listFiles(directory: string, place: string): Promise<string[]> {
  return explain(directory, async () => {
    try {
      return (await fs.readdir(place)).sort();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw error;
    }
  });
}

/** Removes what an interrupted write has left, as far as that is possible. Errors: none. */
export async function removeUnfinishedStateFiles(directory: string): Promise<void> {
  for (const place of stateDirs(directory)) {
    for (const name of await fs.readdir(place).catch(() => [])) {
      if (name.endsWith('.new')) await fs.rm(join(place, name), { force: true }).catch(() => {});
    }
  }
}

/** Puts a damaged state file out of the way, kept for a person to look at. Errors: `runtime-dir.unusable`. */
export async function setAsideStateFile(directory: string, path: string): Promise<void> {
  await explain(directory, () => fs.rename(path, `${path}.damaged`));
}

/** The second holds the copies, for a file that turns out to be damaged while its mount is alive. */
function stateDirs(directory: string): string[] {
  return [join(directory, 'mounts'), join(directory, 'mounts.copy')];
}

function stateFile(place: string, mountId: string): string {
  return join(place, `${mountId}.json`);
}

async function explain<T>(directory: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (cause) {
    if (cause instanceof AgentError) throw cause;
    const { code = 'unknown error', path = directory } = cause as NodeJS.ErrnoException;
    throw new AgentError(
      'runtime-dir.unusable',
      `cannot use the runtime directory ${directory}: ${code} at ${path}`,
      { directory },
      cause,
    );
  }
}
