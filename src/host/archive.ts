import { closeSync, openSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AgentError } from '../core/errors.ts';
import { findProgram, runProgram } from './programs.ts';

const tarTimeoutMs = 60_000;

/**
 * Writes a gzipped tar archive, for its owner alone, with the system's tar: docs/decisions/0019.
 *
 * @param directory the one directory in it.
 *
 * Errors: `bundle.failed`, also where the file is there already.
 */
export async function writeArchive(
  file: string,
  directory: string,
  entries: readonly { name: string; text: string }[],
  environment: Readonly<Record<string, string | undefined>>,
): Promise<void> {
  const tar = findProgram('tar', environment['PATH']);
  if (tar === null)
    throw new AgentError('bundle.failed', 'tar was found neither in PATH nor in /bin', {
      hint: 'Install tar.',
    });
  createEmpty(file);
  const workspace = await mkdtemp(join(tmpdir(), 'efs-agent-bundle-'));
  try {
    await mkdir(join(workspace, directory), { mode: 0o700 });
    for (const { name, text } of entries)
      await writeFile(join(workspace, directory, name), text, { mode: 0o600 });
    const { end, stderr } = await runProgram(tar, ['-czf', file, '-C', workspace, directory], {
      timeoutMs: tarTimeoutMs,
      environment,
    });
    if (end.kind !== 'exited' || end.status !== 0)
      throw new AgentError('bundle.failed', `tar could not write ${file}: ${stderr.trim() || end.kind}`, {
        file,
      });
  } catch (thrown) {
    await rm(file, { force: true });
    throw thrown;
  } finally {
    await rm(workspace, { recursive: true, force: true });
  }
}

function createEmpty(file: string): void {
  try {
    closeSync(openSync(file, 'wx', 0o600));
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new AgentError('bundle.failed', `cannot write ${file}: ${code}`, { file }, cause);
  }
}
