import type { Server } from 'node:net';
import { parseConfig } from '../core/config.ts';
import type { AgentStatus } from '../core/control-protocol.ts';
import { AgentError, asAgentError, renderError } from '../core/errors.ts';
import { exitCodeOf } from '../core/exit-codes.ts';
import { version } from '../core/version.ts';
import { readAgentPid, writeAgentPid } from '../host/agent-pid.ts';
import { blameChildren } from '../host/children.ts';
import { systemClock } from '../host/clock.ts';
import { readConfigFiles } from '../host/config-files.ts';
import { adoptControlSocket, openControlSocket } from '../host/control-socket.ts';
import { isUnderSystemd, notifySystemd, takeSocketActivationFd } from '../host/notify.ts';
import { controlSocketPath, createRuntimeDir, runtimeDir } from '../host/runtime-dir.ts';
import { removeSocket } from '../host/unix-socket.ts';
import { openLog } from '../observe/log.ts';
import { type Control, serveControl } from './control.ts';
import { type FromSuccessor, giveTo, receiveInheritance, takeoverVersion } from './takeover.ts';
import { openViews } from './views.ts';
import { wireAgent } from './wire.ts';

/** How often the mounts are compared with the kernel's mount tables even when no session ended, in milliseconds. */
const sweepMs = 30_000;
/** The same while the end of a container waits for them, in milliseconds. */
const unmountCheckMs = 200;

interface Arguments {
  /** Leave when there have been no mounts for a while. */
  onDemand: boolean;
  /** Started by the agent before this one, which hands everything over. */
  successor: boolean;
  /** The main process of a container: how long mounts may still be used after SIGTERM, in milliseconds; else null. */
  containerGraceMs: number | null;
}

/** The daemon: `agent.cjs [--on-demand] [--successor] [--container=<seconds of grace>]`. */
async function main(): Promise<void> {
  const given = readArguments(process.argv.slice(2));
  process.umask(0o077);
  const config = parseConfig(await readConfigFiles(process.env));
  const openedLog = openLog(config.logLevel, process.env, systemClock);
  const { log } = openedLog;
  const directory = runtimeDir(process.env);
  await createRuntimeDir(directory);
  const activationFd = takeSocketActivationFd(process.env);
  if (!given.successor && isUnderSystemd() && (await joinRunningAgent(directory))) return;

  // Whatever else threw may have left a mount half done: the next agent takes all of them up from their records.
  process.on('uncaughtException', (thrown) => {
    const { message, stack } = thrown;
    if (blameChildren(thrown)) log('warn', 'worker.misspoke', { error: message });
    else {
      log('error', 'agent.failed', { error: message, stack: stack ?? null });
      process.exit(1);
    }
  });
  const agent = await wireAgent(directory, log, process.env);
  const { mounts, workers } = agent;
  let startedAtMs = systemClock.nowMs();
  let activated = activationFd !== null;
  let control: Control;
  let stopping = false;
  log('info', 'agent.started', { version, pid: process.pid, runtimeDir: directory });
  if (given.successor) await inherit();
  else await begin();
  await writeAgentPid(directory);
  const sweeping = setInterval(() => void mounts.sweep(), sweepMs);
  const views = await openViews({
    directory,
    config,
    clock: systemClock,
    log,
    readStatus,
    refreshMounts: () => mounts.refresh(),
    countEvents: () => openedLog.counts(),
  });
  if (given.onDemand) leaveWhenIdle(config.idleExitMs, () => mounts.status().length > 0, leave);
  log('info', 'agent.ready');
  await notifySystemd(given.successor ? [] : ['READY=1']);
  process.on('SIGTERM', () => void stop('SIGTERM'));
  process.on('SIGINT', () => void stop('SIGINT'));
  process.on('SIGHUP', () => void renew('SIGHUP'));

  function serve(server: Server): void {
    control = serveControl(server, {
      clock: systemClock,
      random: Math.random,
      log,
      mounts,
      report: agent.report,
      status: readStatus,
      changeLogLevel(change) {
        if (change !== null) openedLog.setLevel(change.level, change.forMs);
        return openedLog.level();
      },
      takeOver: (program) => handOver(program),
      leave: () => void end(),
    });
  }

  function readStatus(): AgentStatus {
    return {
      version,
      pid: process.pid,
      startedAtMs,
      worker: workers.status(),
      mounts: mounts.status(),
    };
  }

  async function begin(): Promise<void> {
    const path = controlSocketPath(directory);
    const server =
      activationFd === null ? await openControlSocket(path) : await adoptControlSocket(activationFd);
    agent.makePrivateKey();
    const beingMade = await mounts.restore();
    serve(server);
    for (const one of beingMade) control.resume(one);
  }

  async function inherit(): Promise<void> {
    const parent = process as NodeJS.Process & { send(message: FromSuccessor): void };
    const inherited = receiveInheritance(
      parent,
      (server, isActivated) => {
        activated = isActivated;
        serve(server);
      },
      (message) => {
        startedAtMs = message.startedAtMs;
        agent.inheritPrivateKey(message.privateKeyPem);
      },
      (tunnel, listener) => mounts.inherit(tunnel, listener),
    );
    parent.send({ kind: 'ready', version: takeoverVersion });
    await inherited;
    // Mounts without a tunnel have nothing to hand over but their record.
    for (const one of await mounts.restore()) control.resume(one);
    parent.send({ kind: 'serving', pid: process.pid });
  }

  /** Starts a successor and gives it everything. Errors: `agent.start-failed`; then this agent goes on. */
  async function handOver(program: string): Promise<number> {
    if (given.containerGraceMs !== null) {
      throw new AgentError(
        'agent.start-failed',
        'the main process of a container cannot be replaced inside it',
        {
          hint: 'Replace the container; the agent of the next one takes up the mounts.',
        },
      );
    }
    const { privateKeyPem } = agent;
    const startSuccessor = () => agent.startSuccessor(program, given.onDemand);
    return giveTo({
      clock: systemClock,
      log,
      control,
      activated,
      mounts,
      privateKeyPem,
      startedAtMs,
      startSuccessor,
    });
  }

  /** Another process of the same program, or of the version that was installed meanwhile, goes on in our place. */
  async function renew(reason: string): Promise<void> {
    try {
      const successor = await handOver(process.argv[1] ?? '');
      await notifySystemd([`MAINPID=${successor}`]);
      await end();
    } catch (error) {
      log('error', 'takeover.failed', { reason, error: asAgentError(error).message });
    }
  }

  /**
   * systemd stops a service in order to start it again, and does not say so: while there are mounts a successor
   * stays behind, and the next start of the service finds it. Elsewhere the state files are what stays.
   *
   * With a container everything in it ends: its mounts are served until they are gone, so that what is written can
   * still be flushed, for as long as the grace lasts. A second signal ends it.
   */
  async function stop(reason: string): Promise<void> {
    if (given.containerGraceMs !== null && !stopping) {
      stopping = true;
      await waitForUnmount(reason, given.containerGraceMs);
    } else if (isUnderSystemd() && mounts.list().some((tunnel) => tunnel.phase === 'mounted')) {
      await handOver(process.argv[1] ?? '').then(
        () => end(),
        (error: unknown) => log('error', 'takeover.failed', { reason, error: asAgentError(error).message }),
      );
    }
    await leave(reason);
  }

  async function waitForUnmount(reason: string, graceMs: number): Promise<void> {
    const endMonoMs = systemClock.monoMs() + graceMs;
    log('info', 'agent.stopping', { reason, mounts: mounts.status().length, graceMs });
    while (mounts.status().length > 0 && systemClock.monoMs() < endMonoMs) {
      await new Promise((wake) => setTimeout(wake, unmountCheckMs));
      await mounts.sweep();
    }
  }

  async function leave(reason: string): Promise<void> {
    clearInterval(sweeping);
    log('info', 'agent.stopped', { reason, mounts: mounts.list().length });
    if (!activated) await removeSocket(controlSocketPath(directory));
    await views.close();
    agent.close();
    await end();
  }

  async function end(): Promise<never> {
    await openedLog.close();
    process.exit(0);
  }
}

/** An agent that outlived the stop of its service becomes the service's main process again. */
async function joinRunningAgent(directory: string): Promise<boolean> {
  const pid = await readAgentPid(directory);
  if (pid === null) return false;
  await notifySystemd([`MAINPID=${pid}`, 'READY=1']);
  return true;
}

function leaveWhenIdle(
  idleExitMs: number,
  busy: () => boolean,
  leave: (reason: string) => Promise<void>,
): void {
  const checkMs = Math.min(idleExitMs, 1_000);
  let idleSinceMonoMs = systemClock.monoMs();
  setInterval(() => {
    const nowMonoMs = systemClock.monoMs();
    if (busy()) idleSinceMonoMs = nowMonoMs;
    else if (nowMonoMs - idleSinceMonoMs >= idleExitMs) void leave('idle');
  }, checkMs);
}

function readArguments(argv: string[]): Arguments {
  const known = /^--(?:on-demand|successor|container=\d{1,6})$/;
  const unknown = argv.find((argument) => !known.test(argument));
  if (unknown !== undefined) throw new AgentError('usage', `efs-agent agent: unknown argument ${unknown}`);
  const container = argv.find((argument) => argument.startsWith('--container='));
  return {
    onDemand: argv.includes('--on-demand'),
    successor: argv.includes('--successor'),
    containerGraceMs: container === undefined ? null : Number(container.split('=')[1]) * 1_000,
  };
}

main().catch((error: unknown) => {
  const known = asAgentError(error);
  process.stderr.write(renderError('efs-agent', known));
  process.exit(exitCodeOf(known));
});
