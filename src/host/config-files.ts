import { readFile } from 'node:fs/promises';
import { AgentError } from '../core/errors.ts';

/** The configuration file every distribution of the reference ships. */
const defaultPath = '/etc/amazon/efs/efs-utils.conf';

/**
 * Reads the configuration file's text: the one `EFS_AGENT_CONFIG` names, else the default one.
 *
 * Errors: `config.unreadable`; only the default file may be missing.
 */
export async function readConfigFiles(
  environment: Readonly<Record<string, string | undefined>>,
): Promise<{ path: string; text: string }[]> {
  const named = environment['EFS_AGENT_CONFIG'];
  const path = named || defaultPath;
  try {
    return [{ path, text: await readFile(path, 'utf8') }];
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' && !named) return [];
    throw new AgentError(
      'config.unreadable',
      `cannot read the configuration file ${path}: ${code}`,
      { path },
      cause,
    );
  }
}
