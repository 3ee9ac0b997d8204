import { resolve } from 'node:path';
import { protocolVersion } from '../core/control-protocol.ts';
import { AgentError, asAgentError } from '../core/errors.ts';
import type { UmountInvocation } from '../core/mount-spec.ts';
import { resolveDirectory } from '../host/own-mounts.ts';
import { findProgram, runProgram } from '../host/programs.ts';
import type { Caller } from './caller.ts';
import { converse, receiveAnswer, throwIfInterrupted } from './conversation.ts';
import { findEfsMount } from './mount.ts';
import { findAgent } from './start-agent.ts';

export type UmountRequest = Extract<UmountInvocation, { kind: 'umount' }>;

/**
 * Unmounts a file system and has its tunnel closed. The mount itself is never looked at: it may be dead.
 *
 * Errors: `mountpoint.not-mounted`, `umount.failed` with umount's words, `interrupted`. An agent that does not run,
 * or does not answer, is no error: the file system is unmounted then.
 */
export async function unmountFileSystem(request: UmountRequest, caller: Caller): Promise<void> {
  const mountPoint = await findMountPoint(resolve(caller.workingDirectory, request.mountPoint), caller);
  await runUmount(request, mountPoint, caller);
  try {
    await closeTunnel(mountPoint, caller);
  } catch (thrown) {
    caller.writeError(
      `${caller.program}: ${mountPoint} is unmounted; its tunnel may still be open: ${asAgentError(thrown).message}\n`,
    );
  }
}

/** A mount point as it is written, or else without links. */
async function findMountPoint(written: string, caller: Caller): Promise<string> {
  if (findEfsMount(written, caller) !== null) return written;
  const found = await resolveDirectory(written, caller.limits.lookMs, caller.environment);
  if (found.kind === 'directory' && findEfsMount(found.path, caller) !== null) return found.path;
  throw new AgentError('mountpoint.not-mounted', `no EFS file system is mounted on ${written}`, {
    mountPoint: written,
  });
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

async function closeTunnel(mountPoint: string, caller: Caller): Promise<void> {
  const agent = await findAgent(caller);
  if (agent === null) return;
  await converse(agent, caller, async () => {
    agent.send({ kind: 'unmounted', version: protocolVersion, mountPoint });
    await receiveAnswer(agent, 'closed', caller.limits.closeMs);
  });
}
