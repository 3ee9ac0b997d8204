import { resolve } from 'node:path';
import { type AgentMessage, pickEnvironment, protocolVersion } from '../core/control-protocol.ts';
import { AgentError } from '../core/errors.ts';
import { type HelperInvocation, type MountSpec, parseMountSpec } from '../core/mount-spec.ts';
import { findTunnelMounts, type MountEntry, parseMountInfo } from '../core/mountinfo.ts';
import { planNfsOptions, planReadAheadKib } from '../core/nfs-options.ts';
import { readOwnMountTable, resolveDirectory, writeReadAhead } from '../host/own-mounts.ts';
import { findProgram, type ProgramResult, runProgram } from '../host/programs.ts';
import type { Caller } from './caller.ts';
import type { AgentConnection } from './control-client.ts';
import { converse, receiveAnswer, throwIfInterrupted } from './conversation.ts';
import { createProgress } from './progress.ts';
import { decideAttempt, planAttemptMs } from './retry.ts';
import { openAgent } from './start-agent.ts';
import { readStatus } from './status.ts';

export type MountRequest = Extract<HelperInvocation, { kind: 'mount' }>;

type ReadyTunnel = Extract<AgentMessage, { kind: 'tunnel.ready' }>;

/**
 * Mounts a file system: the agent opens the tunnel, mount.nfs4 mounts through it in the caller's namespaces, the agent
 * records the mount. A failure at any point undoes what came before it.
 *
 * Errors: any of the fault table; mount.nfs4's own words go to stderr before them.
 */
export async function mountFileSystem(request: MountRequest, caller: Caller): Promise<void> {
  const spec = parseMountSpec(request.device, request.options);
  if (request.fake) return;
  const mountPoint = await resolveMountPoint(resolve(caller.workingDirectory, request.mountPoint), caller);
  if (findEfsMount(mountPoint, caller) !== null) {
    await checkSameMount(spec, mountPoint, caller);
    caller.writeOut(`${mountPoint} is already mounted\n`);
    return;
  }
  const program = findMountProgram(caller);
  const agent = await openAgent(caller);
  const progress = createProgress(request.verbose, caller);
  const startMs = performance.now();
  try {
    await converse(agent, caller, async () => {
      agent.send({
        kind: 'tunnel.open',
        version: protocolVersion,
        spec,
        mountPoint,
        environment: pickEnvironment(caller.environment),
      });
      const tunnel = await receiveAnswer(agent, 'tunnel.ready', caller.limits.silenceMs, progress);
      progress.show('mount.nfs4', performance.now() - startMs);
      await mountThroughTunnel({ request, spec, mountPoint, program, tunnel, agent }, caller);
      if (tunnel.readAhead) setReadAhead(spec, mountPoint, request.verbose, caller);
      progress.show('mounted', performance.now() - startMs);
    });
  } finally {
    progress.end();
  }
}

/** The NFS mount from a tunnel that is on top at a mount point, or null. */
export function findEfsMount(mountPoint: string, caller: Caller): MountEntry | null {
  const top = parseMountInfo(readOwnMountTable(caller.files)).findLast(
    (entry) => entry.mountPoint === mountPoint,
  );
  return top?.fsType === 'nfs4' && top.source.startsWith('127.0.0.1:') ? top : null;
}

/** A mount point with an EFS mount is taken as it is written: to look at a dead mount is to hang. */
async function resolveMountPoint(written: string, caller: Caller): Promise<string> {
  if (findEfsMount(written, caller) !== null) return written;
  const found = await resolveDirectory(written, caller.limits.lookMs, caller.environment);
  switch (found.kind) {
    case 'directory':
      return found.path;
    case 'missing':
      throw new AgentError('mountpoint.missing', `mount point ${written} does not exist`, {
        mountPoint: written,
      });
    case 'not-directory':
      throw new AgentError('mountpoint.not-directory', `mount point ${written} is not a directory`, {
        mountPoint: written,
      });
    case 'silent':
      throw new AgentError(
        'mountpoint.busy',
        `mount point ${written} did not answer within ${caller.limits.lookMs / 1_000} s`,
        {
          mountPoint: written,
          hint: 'What is mounted at or above it is dead; see /proc/mounts, and use umount -f -l on it.',
        },
      );
  }
}

/** Errors: `mountpoint.busy` unless the same file system, directory and access point is mounted there. */
async function checkSameMount(spec: MountSpec, mountPoint: string, caller: Caller): Promise<void> {
  const mounts = (await readStatus(caller))?.mounts ?? [];
  const there = mounts.find((mount) => mount.mountPoint === mountPoint && mount.state === 'mounted');
  const same =
    there !== undefined &&
    (spec.remote.kind === 'file-system'
      ? there.fileSystemId === spec.remote.id
      : there.dnsName === spec.remote.name) &&
    there.path === spec.path &&
    there.accessPointId === spec.accessPoint;
  if (same) return;
  const what = there === undefined ? 'another file system' : describe(there);
  throw new AgentError('mountpoint.busy', `${what} is mounted on ${mountPoint}`, { mountPoint });
}

function describe(mount: { fileSystemId: string; path: string; accessPointId: string | null }): string {
  const through = mount.accessPointId === null ? '' : ` through ${mount.accessPointId}`;
  return `${mount.fileSystemId}:${mount.path}${through}`;
}

function findMountProgram(caller: Caller): string {
  const program = findProgram('mount.nfs4', caller.environment['PATH']);
  if (program === null)
    throw new AgentError('nfs.program-missing', 'mount.nfs4 was found neither in PATH nor in /sbin');
  return program;
}

interface Attempt {
  request: MountRequest;
  spec: MountSpec;
  mountPoint: string;
  program: string;
  tunnel: ReadyTunnel;
  agent: AgentConnection;
}

/** Runs mount.nfs4, tells the agent how it ended, and waits until the agent has recorded or undone the mount. */
async function mountThroughTunnel(attempt: Attempt, caller: Caller): Promise<void> {
  const { agent, mountPoint, tunnel } = attempt;
  const outcome = await runAttempts(attempt, caller);
  if (outcome.status !== 0) caller.writeError(asLines(outcome.stderr));
  try {
    agent.send({ kind: 'mount.ended', status: outcome.status, stderr: outcome.stderr });
    await receiveAnswer(agent, 'mounted', caller.limits.silenceMs);
  } catch (thrown) {
    if (outcome.status === 0) await undoMount(mountPoint, tunnel.port, caller);
    throw outcome.error ?? thrown;
  }
}

interface Outcome {
  status: number;
  stderr: string;
  /** A better explanation than the agent can give. */
  error?: AgentError;
}

async function runAttempts(attempt: Attempt, caller: Caller): Promise<Outcome> {
  const { request, spec, mountPoint, program, tunnel } = attempt;
  const args = [
    `127.0.0.1:${spec.path}`,
    mountPoint,
    ...(request.sloppy ? ['-s'] : []),
    ...(request.verbose ? ['-v'] : []),
    '-o',
    planNfsOptions(spec.nfsOptions, tunnel.port),
  ];
  for (let number = 1; ; number += 1) {
    const timeoutMs = planAttemptMs(number, tunnel.retry, caller.limits.lastAttemptMs);
    const result = await runMountProgram(program, args, timeoutMs, caller);
    if (request.verbose) caller.writeError(asLines(result.stdout));
    if (result.end.kind !== 'exited' && isMountedThrough(mountPoint, tunnel.port, caller)) {
      // The kernel had mounted before the signal came.
      result.end = { kind: 'exited', status: 0 };
    }
    if (caller.interruption.aborted) {
      if (result.end.kind === 'exited' && result.end.status === 0)
        await undoMount(mountPoint, tunnel.port, caller);
      throwIfInterrupted(caller);
    }
    const verdict = decideAttempt(result, {
      attempt: number,
      retry: tunnel.retry,
      accessPoint: spec.accessPoint !== null,
      random: caller.random(),
    });
    switch (verdict.kind) {
      case 'mounted':
        return { status: 0, stderr: result.stderr };
      case 'failed':
        return { status: verdict.status, stderr: result.stderr };
      case 'timeout':
        return {
          status: 32,
          stderr: result.stderr,
          error: new AgentError(
            'nfs.timeout',
            `mount.nfs4 had not mounted ${mountPoint} within ${timeoutMs / 1_000} s and was stopped`,
            {
              mountPoint,
              timeoutMs,
            },
          ),
        };
      case 'again': {
        const reason =
          result.end.kind === 'timeout' ? `no answer within ${timeoutMs / 1_000} s` : result.stderr.trim();
        const progress = `Mount attempt ${number}/${tunnel.retry.attempts} failed due to ${reason}`;
        caller.writeError(
          `${progress}, wait ${(verdict.pauseMs / 1_000).toFixed(1)} sec before next attempt.\n`,
        );
        await caller.pause(verdict.pauseMs);
        throwIfInterrupted(caller);
      }
    }
  }
}

async function runMountProgram(
  program: string,
  args: string[],
  timeoutMs: number,
  caller: Caller,
): Promise<ProgramResult> {
  try {
    // LC_ALL: what it says is looked at, and shown next to our own English.
    const environment = { ...caller.environment, LC_ALL: 'C' };
    return await runProgram(program, args, { timeoutMs, signal: caller.interruption, environment });
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
    throw new AgentError('nfs.program-missing', `cannot run ${program}: ${reason}`, { program }, cause);
  }
}

function isMountedThrough(mountPoint: string, port: number, caller: Caller): boolean {
  const mounts = findTunnelMounts(parseMountInfo(readOwnMountTable(caller.files)), port);
  return mounts.some((entry) => entry.mountPoint === mountPoint);
}

/** Takes a mount away that must not stay; lazily, for its tunnel may be gone. */
async function undoMount(mountPoint: string, port: number, caller: Caller): Promise<void> {
  const umount = findProgram('umount', caller.environment['PATH']);
  if (umount === null || !isMountedThrough(mountPoint, port, caller)) return;
  await runProgram(umount, ['-i', '-c', '-f', '-l', '--', mountPoint], {
    timeoutMs: caller.limits.closeMs,
    environment: caller.environment,
  });
}

function setReadAhead(spec: MountSpec, mountPoint: string, verbose: boolean, caller: Caller): void {
  const kib = planReadAheadKib(spec.nfsOptions);
  const mount = findEfsMount(mountPoint, caller);
  if (kib === null || mount === null) return;
  try {
    writeReadAhead(caller.files, mount, kib);
  } catch (thrown) {
    if (verbose)
      caller.writeError(`${caller.program}: read-ahead stays as it is: ${(thrown as Error).message}\n`);
  }
}

function asLines(text: string): string {
  return text === '' || text.endsWith('\n') ? text : `${text}\n`;
}
