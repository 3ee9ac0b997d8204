import { resolve } from 'node:path';
import { protocolVersion } from '../core/control-protocol.ts';
import { AgentError, asAgentError } from '../core/errors.ts';
import type { UmountInvocation } from '../core/mount-spec.ts';
import { resolveDirectory } from '../host/own-mounts.ts';
import { findProgram, runProgram } from '../host/programs.ts';
import type { Caller } from './caller.ts';
import { converse, receiveAnswer, throwIfInterrupted } from './conversation.ts';
import { readNfsMount } from './nfs-mounts.ts';
import { findAgent, findOtherAgents } from './start-agent.ts';
import { readServedMounts } from './status.ts';

export type UmountRequest = Extract<UmountInvocation, { kind: 'umount' }>;

/**
 * Unmounts a file system and has its tunnel closed. The mount itself is never looked at: it may be dead.
 *
 * Where the kernel has no mount any more, the agent may still have the tunnel of one: then that is closed.
 *
 * Errors: `mountpoint.not-mounted`, `umount.failed` with umount's words, `interrupted`. An agent that does not run,
 * or does not answer, is no error: the file system is unmounted then.
 */
export async function unmountFileSystem(request: UmountRequest, caller: Caller): Promise<void> {
  const written = resolve(caller.workingDirectory, request.mountPoint);
  const places = await findPlaces(written, caller);
  const mountPoint = places.find((place) => readNfsMount(place, caller) !== null);
  if (mountPoint === undefined || !(await isOurs(mountPoint, caller))) {
    for (const place of places) if (await closeTunnel(place, caller)) return;
    throw new AgentError('mountpoint.not-mounted', `no EFS file system is mounted on ${written}`, {
      mountPoint: written,
    });
  }
  await runUmount(request, mountPoint, caller);
  try {
    await closeTunnel(mountPoint, caller);
  } catch (thrown) {
    caller.writeError(
      `${caller.program}: ${mountPoint} is unmounted; its tunnel may still be open: ${asAgentError(thrown).message}\n`,
    );
  }
}

/** A mount from 127.0.0.1 is; any other NFS mount must be one that an agent has recorded. */
async function isOurs(mountPoint: string, caller: Caller): Promise<boolean> {
  if (readNfsMount(mountPoint, caller)?.source.startsWith('127.0.0.1:') === true) return true;
  return (await readServedMounts(caller)).some((mount) => mount.mountPoint === mountPoint);
}

/** A mount point as it is written, and without links where that can be told. */
async function findPlaces(written: string, caller: Caller): Promise<string[]> {
  if (readNfsMount(written, caller) !== null) return [written];
  const found = await resolveDirectory(written, caller.limits.lookMs, caller.environment);
  return found.kind === 'directory' && found.path !== written ? [written, found.path] : [written];
}

async function runUmount(request: UmountRequest, mountPoint: string, caller: Caller): Promise<void> {
  const program = findProgram('umount', caller.environment['PATH']);
  if (program === null)
    throw new AgentError('umount.failed', 'umount was found neither in PATH nor in /sbin');
  // -i: not through a helper, that is, not through us. -c: without a look at the mount point.
  const args = ['-i', '-c'];
  if (request.force) args.push('-f');
  if (request.lazy) args.push('-l');
  if (request.readOnly) args.push('-r');
  if (request.verbose) args.push('-v');
  const { end, stdout, stderr } = await runProgram(program, [...args, '--', mountPoint], {
    timeoutMs: null,
    signal: caller.interruption,
    environment: caller.environment,
  });
  if (end.kind === 'exited' && end.status === 0) {
    caller.writeOut(stdout);
    return;
  }
  throwIfInterrupted(caller);
  const reason = stderr.trim().replace(/\s*\n\s*/g, '; ') || 'it gave no reason';
  throw new AgentError('umount.failed', reason.startsWith('umount') ? reason : `umount: ${reason}`, {
    mountPoint,
  });
}

/** Asks the agents, that of the caller's network namespace first, until one has served the mount point. */
async function closeTunnel(mountPoint: string, caller: Caller): Promise<boolean> {
  for (const agent of [await findAgent(caller), ...(await findOtherAgents(caller))]) {
    if (agent === null) continue;
    const found = await converse(agent, caller, async () => {
      agent.send({ kind: 'unmounted', version: protocolVersion, mountPoint });
      return (await receiveAnswer(agent, 'closed', caller.limits.closeMs)).found;
    });
    if (found) return true;
  }
  return false;
}
