import { AgentError } from '../core/errors.ts';
import { readRegularFile } from '../host/regular-file.ts';

/**
 * Uses the token of a file; once more with the new one if it failed and the file was replaced meanwhile.
 *
 * Errors: `credentials.rejected` if the file cannot be read, is empty, or has a line end inside the token; those of `use`.
 */
export async function withTokenFile<T>(path: string, use: (token: string) => Promise<T>): Promise<T> {
  const token = await readTokenFile(path);
  try {
    return await use(token);
  } catch (thrown) {
    // The kubelet rotates the file while we ask, and the old token ends at that moment.
    const newToken = await readTokenFile(path).catch(() => token);
    if (newToken === token) throw thrown;
    return use(newToken);
  }
}

/** The content of a token file, without the line end that editors add. */
async function readTokenFile(path: string): Promise<string> {
  const refuse = (reason: string) =>
    new AgentError('credentials.rejected', `the token file ${path} ${reason}`);
  let token: string;
  try {
    token = (await readRegularFile(path)).trim();
  } catch (thrown) {
    throw refuse(`cannot be read: ${(thrown as NodeJS.ErrnoException).code}`);
  }
  if (token === '') throw refuse('is empty');
  if (/[\r\n]/.test(token)) throw refuse('has a line end inside the token');
  return token;
}
