import { constants, readdirSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { AgentError } from '../core/errors.ts';

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

/**
 * Makes the runtime directory (0755, so that its socket's own mode decides) and the state directory (0700).
 *
 * Errors: `runtime-dir.unusable`.
 */
export async function createRuntimeDir(directory: string): Promise<void> {
  await explain(directory, async () => {
    await fs.mkdir(directory, { recursive: true, mode: 0o755 });
    await fs.mkdir(stateDir(directory), { recursive: true, mode: 0o700 });
  });
}

/**
 * Writes a state file whole: temporary name, fsync, rename.
 *
 * Errors: `runtime-dir.unusable` (full, read-only).
 */
export async function writeStateFile(directory: string, mountId: string, text: string): Promise<void> {
  const path = join(stateDir(directory), `${mountId}.json`);
  const temporary = `${path}.new`;
  await explain(directory, async () => {
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW;
    const file = await fs.open(temporary, flags, 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await fs.rename(temporary, path);
  });
}

/** Removes a state file; one that is not there is fine. Errors: `runtime-dir.unusable`. */
export async function removeStateFile(directory: string, mountId: string): Promise<void> {
  await explain(directory, () => fs.rm(join(stateDir(directory), `${mountId}.json`), { force: true }));
}

/** All state files by mount id. Errors: `runtime-dir.unusable`. */
export async function readStateFiles(directory: string): Promise<{ mountId: string; text: string }[]> {
  return explain(directory, async () => {
    const files: { mountId: string; text: string }[] = [];
    for (const name of (await fs.readdir(stateDir(directory))).sort()) {
      if (!name.endsWith('.json')) continue;
      const text = await fs.readFile(join(stateDir(directory), name), 'utf8');
      files.push({ mountId: name.slice(0, -5), text });
    }
    return files;
  });
}

/** Removes what an interrupted write has left. Errors: `runtime-dir.unusable`. */
export async function removeUnfinishedStateFiles(directory: string): Promise<void> {
  await explain(directory, async () => {
    for (const name of await fs.readdir(stateDir(directory)))
      if (name.endsWith('.new')) await fs.rm(join(stateDir(directory), name), { force: true });
  });
}

/** Puts a damaged state file out of the way, kept for a person to look at. Errors: `runtime-dir.unusable`. */
export async function setAsideStateFile(directory: string, mountId: string): Promise<void> {
  const path = join(stateDir(directory), `${mountId}.json`);
  await explain(directory, () => fs.rename(path, `${path}.damaged`));
}

function stateDir(directory: string): string {
  return join(directory, 'mounts');
}

async function explain<T>(directory: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (cause) {
    const { code = 'unknown error', path = directory } = cause as NodeJS.ErrnoException;
    throw new AgentError(
      'runtime-dir.unusable',
      `cannot use the runtime directory ${directory}: ${code} at ${path}`,
      { directory },
      cause,
    );
  }
}
