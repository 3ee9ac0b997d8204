import { AgentError, asAgentError, renderError } from '../core/errors.ts';
import { exitCodeOf } from '../core/exit-codes.ts';
import { parseHelperArgv, parseUmountArgv } from '../core/mount-spec.ts';
import { version } from '../core/version.ts';
import type { Caller } from './caller.ts';
import { mountFileSystem } from './mount.ts';
import { unmountFileSystem } from './umount.ts';

const mountUsage = `Usage: mount.efs [--version] [-h|--help] <fsname>[:/path] <mountpoint> [-fnsv] [-o <options>]

Mounts an Amazon EFS file system; usually called by: mount -t efs -o tls <fsname> <mountpoint>
See mount.efs(8).
`;

const umountUsage = `Usage: umount.efs [--version] [-h|--help] <mountpoint> [-flnrv]

Unmounts an Amazon EFS file system and closes its tunnel; usually called by: umount <mountpoint>
See umount.efs(8).
`;

/** Runs `mount.efs` and gives its exit status. Errors: none; they are explained on stderr. */
export function runMountHelper(argv: readonly string[], caller: Caller): Promise<number> {
  return runProgramFor(caller, async () => {
    const request = parseHelperArgv(argv);
    if (request.kind === 'help') caller.writeOut(mountUsage);
    else if (request.kind === 'version') caller.writeOut(`${caller.program} Version: ${version}\n`);
    else {
      checkRoot(caller);
      return mountFileSystem(request, caller);
    }
    return 0;
  });
}

/** Runs `umount.efs` and gives its exit status. Errors: none; they are explained on stderr. */
export function runUmountHelper(argv: readonly string[], caller: Caller): Promise<number> {
  return runProgramFor(caller, async () => {
    const request = parseUmountArgv(argv);
    if (request.kind === 'help') caller.writeOut(umountUsage);
    else if (request.kind === 'version') caller.writeOut(`${caller.program} Version: ${version}\n`);
    else {
      checkRoot(caller);
      await unmountFileSystem(request, caller);
    }
  });
}

/**
 * Runs the body of a program to an exit status, 0 unless it gives one, explaining what it throws on stderr.
 *
 * Errors: none.
 */
export async function runProgramFor(caller: Caller, body: () => Promise<unknown>): Promise<number> {
  try {
    const status = await body();
    return typeof status === 'number' ? status : 0;
  } catch (thrown) {
    const { code, message, details } = asAgentError(thrown);
    const error = new AgentError(code, onOneLine(message), details, thrown);
    caller.writeError(renderError(caller.program, error));
    return exitCodeOf(error);
  }
}

/** Errors: `permission.not-root`. */
export function checkRoot(caller: Caller): void {
  if (caller.uid !== 0) throw new AgentError('permission.not-root', `only root can run ${caller.program}`);
}

/** A message may quote what the user or a peer wrote; a terminal shall not obey it. */
function onOneLine(message: string): string {
  return message
    .trim()
    .replace(/\s*\n\s*/g, '; ')
    .replace(/\p{C}/gu, '?');
}
