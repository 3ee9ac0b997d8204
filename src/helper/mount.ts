import { resolve } from 'node:path';
import { type AgentMessage, pickEnvironment, protocolVersion } from '../core/control-protocol.ts';
import { AgentError, asAgentError, type FaultCode } from '../core/errors.ts';
import { type HelperInvocation, type MountSpec, parseMountSpec } from '../core/mount-spec.ts';
import { findNfsMounts, findTunnelMounts, parseMountInfo } from '../core/mountinfo.ts';
import { planNfsOptions } from '../core/nfs-options.ts';
import { readOwnMountTable, resolveDirectory } from '../host/own-mounts.ts';
import { findProgram, runProgram } from '../host/programs.ts';
import { type AgentCalls, listenForAgents } from './agent-calls.ts';
import type { Caller } from './caller.ts';
import type { AgentConnection } from './control-client.ts';
import { converse, receiveAnswer, throwIfInterrupted } from './conversation.ts';
import { isForeignNetworkNamespace, runInNetworkNamespace } from './network-namespace.ts';
import { explainMissingNetwork } from './network-ready.ts';
import { compareMount, readNfsMount } from './nfs-mounts.ts';
import { asLines, findMountProgram, runMountProgram } from './nfs-program.ts';
import { createProgress } from './progress.ts';
import { setReadAhead } from './read-ahead.ts';
import { remountFileSystem } from './remount.ts';
import { decideAttempt, planAttemptMs } from './retry.ts';
import { openAgent } from './start-agent.ts';

export type MountRequest = Extract<HelperInvocation, { kind: 'mount' }>;

type ReadyTunnel = Extract<AgentMessage, { kind: 'tunnel.ready' }>;

/**
 * Mounts a file system and gives the exit status: the agent opens the tunnel, or without `tls` finds the mount target;
 * mount.nfs4 mounts in the caller's namespaces; the agent records the mount. A failure at any point undoes what came
 * before it.
 *
 * Errors: any of the fault table; mount.nfs4's own words go to stderr before them.
 */
export async function mountFileSystem(request: MountRequest, caller: Caller): Promise<number> {
  const spec = parseMountSpec(request.device, request.options);
  const { networkNamespace } = spec;
  if (networkNamespace !== null && isForeignNetworkNamespace(networkNamespace))
    return runInNetworkNamespace(networkNamespace, caller);
  const mountPoint = await resolveMountPoint(resolve(caller.workingDirectory, request.mountPoint), caller);
  if (spec.nfsOptions.some(({ name }) => name === 'remount')) {
    await remountFileSystem(request, spec, mountPoint, caller);
    return 0;
  }
  if (readNfsMount(mountPoint, caller) !== null) {
    await checkSameMount(spec, mountPoint, caller);
    caller.writeOut(`${mountPoint} is already mounted\n`);
    return 0;
  }
  try {
    await mountAnew(request, spec, mountPoint, caller);
  } catch (thrown) {
    throw await explainMissingNetwork(nameMount(asAgentError(thrown), request.device, mountPoint), caller);
  }
  return 0;
}

/** With `mount -a` and at boot many mounts speak on one standard error: each error names the one that it is about. */
function nameMount(error: AgentError, device: string, mountPoint: string): AgentError {
  const { code, message, details } = error;
  const [fileSystem = ''] = device.split(':');
  return message.includes(fileSystem) || message.includes(mountPoint)
    ? error
    : new AgentError(code, `${device} on ${mountPoint}: ${message}`, details, error);
}

async function mountAnew(
  request: MountRequest,
  spec: MountSpec,
  mountPoint: string,
  caller: Caller,
): Promise<void> {
  const program = findMountProgram(caller);
  const agent = await openAgent(caller);
  const progress = createProgress(request.verbose, caller);
  const startMs = performance.now();
  const talk = async (calls: AgentCalls | null) => {
    agent.send({
      kind: 'tunnel.open',
      version: protocolVersion,
      spec,
      mountPoint,
      environment: pickEnvironment(caller.environment),
      callerSocket: calls?.name ?? null,
    });
    const tunnel = await receiveAnswer(agent, 'tunnel.ready', caller.limits.silenceMs, progress);
    // Everything but the mount: hanging up undoes it.
    if (request.fake) return;
    const showAttempt = (number: number) => {
      const which = number === 1 ? '' : `, attempt ${number} of ${tunnel.retry.attempts}`;
      progress.show(`mounting${which}`, performance.now() - startMs);
    };
    const attempt = { request, spec, mountPoint, program, tunnel, agent, calls, showAttempt };
    await mountThroughTunnel(attempt, caller);
    if (tunnel.readAhead) setReadAhead(spec, mountPoint, request.verbose, caller);
    progress.show('mounted', performance.now() - startMs);
  };
  try {
    await converse(agent, caller, async () => {
      const calls = request.fake ? null : await listenForAgents(agent, caller);
      try {
        await talk(calls);
      } finally {
        // Before the conversation: its end is no reason to start another agent.
        calls?.close();
      }
    });
  } finally {
    progress.end();
  }
}

/** A mount point with an NFS mount is taken as it is written: to look at a dead mount is to hang. */
async function resolveMountPoint(written: string, caller: Caller): Promise<string> {
  if (readNfsMount(written, caller) !== null) return written;
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

/** Errors: `mountpoint.busy` unless the same file system, directory, access point and identity is mounted there. */
async function checkSameMount(spec: MountSpec, mountPoint: string, caller: Caller): Promise<void> {
  const served = await compareMount(spec, mountPoint, caller);
  if (served?.differences.length === 0) return;
  const what =
    served === null
      ? 'another NFS file system'
      : `${served.description}, which is not what is asked for (${served.differences.join('; ')}),`;
  throw new AgentError('mountpoint.busy', `${what} is mounted on ${mountPoint}`, { mountPoint });
}

interface Attempt {
  request: MountRequest;
  spec: MountSpec;
  mountPoint: string;
  program: string;
  tunnel: ReadyTunnel;
  agent: AgentConnection;
  /** Null when no later agent can call. */
  calls: AgentCalls | null;
  showAttempt(number: number): void;
}

/** Runs mount.nfs4, tells the agent how it ended, and waits until the agent has recorded or undone the mount. */
async function mountThroughTunnel(attempt: Attempt, caller: Caller): Promise<void> {
  const outcome = await runAttempts(attempt, caller);
  if (outcome.status !== 0) caller.writeError(asLines(outcome.stderr));
  try {
    await reportEnd(attempt, outcome, caller);
  } catch (thrown) {
    if (outcome.status === 0) await undoMount(attempt, caller);
    throw explainsMore.includes(asAgentError(thrown).code) ? thrown : (outcome.error ?? thrown);
  }
}

/**
 * Tells the agent how mount.nfs4 ended, and waits for its answer; when it died, the next one, which has the tunnel by then, is
 * told of a success. A failure needs no answer: what we do not hold open any more is undone.
 *
 * Errors: those of the agent; `agent.unreachable` when there is none in time.
 */
async function reportEnd(
  { agent, calls }: Attempt,
  { status, stderr }: Outcome,
  { limits }: Caller,
): Promise<void> {
  const endMs = performance.now() + limits.silenceMs;
  let current = calls?.latest() ?? agent;
  for (;;) {
    try {
      current.send({ kind: 'mount.ended', status, stderr });
      await receiveAnswer(current, 'mounted', limits.silenceMs);
      return;
    } catch (thrown) {
      const mayGoOn =
        status === 0 && asAgentError(thrown).code === 'agent.unreachable' && performance.now() < endMs;
      const next = mayGoOn ? await calls?.next(limits.agentStartMs) : null;
      if (next == null) throw thrown;
      current = next;
    }
  }
}

/** What the agent saw on the wire tells more than that mount.nfs4 took too long. */
const explainsMore: readonly FaultCode[] = ['access.denied', 'target.closed'];

interface Outcome {
  status: number;
  stderr: string;
  /** A better explanation than the agent can give. */
  error?: AgentError;
}

async function runAttempts(attempt: Attempt, caller: Caller): Promise<Outcome> {
  const { request, spec, mountPoint, program, tunnel, calls } = attempt;
  const args = [
    `${tunnel.server}:${spec.path}`,
    mountPoint,
    ...(request.sloppy ? ['-s'] : []),
    ...(request.verbose ? ['-v'] : []),
    '-o',
    planNfsOptions(spec.nfsOptions, decidePort(spec, tunnel)),
  ];
  for (let number = 1; ; number += 1) {
    attempt.showAttempt(number);
    const timeoutMs = planAttemptMs(number, tunnel.retry, caller.limits.lastAttemptMs);
    const result = await runMountProgram(program, args, timeoutMs, caller, calls?.descriptors);
    if (request.verbose) caller.writeError(asLines(result.stdout));
    if (result.end.kind !== 'exited' && isMounted(attempt, caller)) {
      // The kernel had mounted before the signal came.
      result.end = { kind: 'exited', status: 0 };
    }
    if (caller.interruption.aborted) {
      if (result.end.kind === 'exited' && result.end.status === 0) await undoMount(attempt, caller);
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

/** Without a tunnel the user's own port counts before the configured one. */
function decidePort(spec: MountSpec, tunnel: ReadyTunnel): number | null {
  return !spec.tls && spec.nfsOptions.some(({ name }) => name === 'port') ? null : tunnel.port;
}

function isMounted({ spec, mountPoint, tunnel }: Attempt, caller: Caller): boolean {
  const entries = parseMountInfo(readOwnMountTable(caller.files));
  const found =
    spec.tls && tunnel.port !== null
      ? findTunnelMounts(entries, tunnel.port)
      : findNfsMounts(entries, mountPoint);
  return found.some((entry) => entry.mountPoint === mountPoint);
}

/** Takes a mount away that must not stay; lazily, for its tunnel may be gone. */
async function undoMount(attempt: Attempt, caller: Caller): Promise<void> {
  const umount = findProgram('umount', caller.environment['PATH']);
  if (umount === null || !isMounted(attempt, caller)) return;
  await runProgram(umount, ['-i', '-c', '-f', '-l', '--', attempt.mountPoint], {
    timeoutMs: caller.limits.closeMs,
    environment: caller.environment,
  });
}
