import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { AgentError } from '../core/errors.ts';
import { readRegularFile } from './regular-file.ts';

/** The configuration file every distribution of the reference ships. */
const defaultPath = '/etc/amazon/efs/efs-utils.conf';

/**
 * Reads the texts of the configuration file and of its drop-ins, in the order in which later ones count: the file that
 * `EFS_AGENT_CONFIG` names, else the default one, then each `*.conf` of the directory named like the file with `.d`
 * after it, by name.
 *
 * Errors: `config.unreadable`; only the default file and the directory may be missing.
 */
export async function readConfigFiles(
  environment: Readonly<Record<string, string | undefined>>,
): Promise<{ path: string; text: string }[]> {
  const named = environment['EFS_AGENT_CONFIG'];
  const path = named || defaultPath;
  const texts = await readUnlessMissing(path, !named);
  const directory = `${path}.d`;
  for (const name of await listDropIns(directory))
    texts.push(...(await readUnlessMissing(join(directory, name), true)));
  return texts;
}

async function readUnlessMissing(path: string, mayMiss: boolean): Promise<{ path: string; text: string }[]> {
  try {
    return [{ path, text: await readRegularFile(path) }];
  } catch (cause) {
    if (mayMiss && (cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw unreadable('file', path, cause);
  }
}

async function listDropIns(directory: string): Promise<string[]> {
  try {
    return (await readdir(directory))
      .filter((name) => name.endsWith('.conf') && !name.startsWith('.'))
      .sort();
  } catch (cause) {
    if (['ENOENT', 'ENOTDIR'].includes((cause as NodeJS.ErrnoException).code ?? '')) return [];
    throw unreadable('directory', directory, cause);
  }
}

function unreadable(what: string, path: string, cause: unknown): AgentError {
  const { code } = cause as NodeJS.ErrnoException;
  return new AgentError(
    'config.unreadable',
    `cannot read the configuration ${what} ${path}: ${code}`,
    { path },
    cause,
  );
}
