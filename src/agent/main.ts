import { rm } from 'node:fs/promises';
import { parseConfig } from '../core/config.ts';
import { AgentError, asAgentError, renderError } from '../core/errors.ts';
import { exitCodeOf } from '../core/exit-codes.ts';
import { version } from '../core/version.ts';
import { systemClock } from '../host/clock.ts';
import { readConfigFiles } from '../host/config-files.ts';
import { adoptControlSocket, openControlSocket } from '../host/control-socket.ts';
import { notifySystemd, takeSocketActivationFd } from '../host/notify.ts';
import { controlSocketPath, createRuntimeDir, runtimeDir } from '../host/runtime-dir.ts';
import { openLog } from '../observe/log.ts';
import { serveControl } from './control.ts';
import { wireAgent } from './wire.ts';

/** How often the mounts are compared with the kernel's mount tables even when no session ended, in milliseconds. */
const sweepMs = 30_000;

/** The daemon: `agent.cjs [--on-demand]`. With `--on-demand` it leaves when it has been without mounts for a while. */
async function main(): Promise<void> {
  const onDemand = readArguments(process.argv.slice(2));
  process.umask(0o077);
  const config = parseConfig(await readConfigFiles(process.env));
  const log = openLog(config.logLevel, process.env);
  const directory = runtimeDir(process.env);
  await createRuntimeDir(directory);
  const socketPath = controlSocketPath(directory);
  const activationFd = takeSocketActivationFd(process.env);
  const server =
    activationFd === null ? await openControlSocket(socketPath) : await adoptControlSocket(activationFd);

  const agent = await wireAgent(directory, log, process.env);
  const startedAtMs = systemClock.nowMs();
  const { mounts, workers } = agent;
  log('info', 'agent.started', { version, pid: process.pid, runtimeDir: directory });
  await mounts.restore();
  serveControl(server, {
    clock: systemClock,
    log,
    mounts,
    status: () => ({
      version,
      pid: process.pid,
      startedAtMs,
      worker: workers.status(),
      mounts: mounts.status(),
    }),
  });
  const sweeping = setInterval(() => void mounts.sweep(), sweepMs);

  async function leave(reason: string): Promise<void> {
    clearInterval(sweeping);
    log('info', 'agent.stopped', { reason, mounts: mounts.list().length });
    if (activationFd === null) await rm(socketPath, { force: true });
    agent.close();
    process.exit(0);
  }
  process.on('SIGTERM', () => void leave('SIGTERM'));
  process.on('SIGINT', () => void leave('SIGINT'));
  process.on('SIGHUP', () => {});
  if (onDemand) leaveWhenIdle(config.idleExitMs, () => mounts.list().length > 0, leave);
  log('info', 'agent.ready');
  await notifySystemd('READY=1');
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

function readArguments(argv: string[]): boolean {
  const unknown = argv.find((argument) => argument !== '--on-demand');
  if (unknown !== undefined) throw new AgentError('usage', `efs-agent agent: unknown argument ${unknown}`);
  return argv.includes('--on-demand');
}

main().catch((error: unknown) => {
  const known = asAgentError(error);
  process.stderr.write(renderError('efs-agent', known));
  process.exit(exitCodeOf(known));
});
