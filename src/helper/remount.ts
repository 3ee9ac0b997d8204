import { AgentError } from '../core/errors.ts';
import type { HelperInvocation, MountSpec } from '../core/mount-spec.ts';
import { planRemountOptions } from '../core/nfs-options.ts';
import type { Caller } from './caller.ts';
import { compareMount, readNfsMount } from './nfs-mounts.ts';
import { asLines, findMountProgram, runMountProgram } from './nfs-program.ts';

/**
 * Changes the NFS options of a mount that is there, such as `ro`. What belongs to the tunnel, the identity or the
 * access point cannot change under a mount, and a remount that asks for it changes nothing at all.
 *
 * Errors: `mountpoint.not-mounted`, `mountpoint.busy`, `option.unsupported`, `nfs.*`.
 */
export async function remountFileSystem(
  request: Extract<HelperInvocation, { kind: 'mount' }>,
  spec: MountSpec,
  mountPoint: string,
  caller: Caller,
): Promise<void> {
  const mounted = readNfsMount(mountPoint, caller);
  if (mounted === null)
    throw new AgentError(
      'mountpoint.not-mounted',
      `nothing to remount: no EFS file system is mounted on ${mountPoint}`,
      {
        mountPoint,
      },
    );
  const served = await compareMount(spec, mountPoint, caller);
  if (served === null)
    throw new AgentError('mountpoint.busy', `the agent does not know the mount on ${mountPoint}`, {
      mountPoint,
      hint: 'Unmount it, and mount it through mount -t efs.',
    });
  const differences = [...served.differences, ...served.tunnelDifferences];
  if (differences.length > 0)
    throw new AgentError(
      'option.unsupported',
      `a remount changes NFS options only, not what ${mountPoint} goes through: ${differences.join('; ')}`,
      { mountPoint, hint: 'Unmount it and mount it again with the new options.' },
    );
  if (request.fake) return;
  const args = [
    mounted.source,
    mountPoint,
    ...(request.sloppy ? ['-s'] : []),
    ...(request.verbose ? ['-v'] : []),
    '-o',
    planRemountOptions(spec.nfsOptions, served.port),
  ];
  const timeoutMs = caller.limits.lastAttemptMs;
  const { end, stdout, stderr } = await runMountProgram(findMountProgram(caller), args, timeoutMs, caller);
  if (request.verbose) caller.writeError(asLines(stdout));
  if (end.kind === 'exited' && end.status === 0) return;
  caller.writeError(asLines(stderr));
  throw end.kind === 'timeout'
    ? new AgentError(
        'nfs.timeout',
        `mount.nfs4 had not remounted ${mountPoint} within ${timeoutMs / 1_000} s`,
      )
    : new AgentError('nfs.failed', `mount.nfs4 could not remount ${mountPoint} (${served.description})`, {
        mountPoint,
      });
}
