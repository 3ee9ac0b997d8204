import type { Config } from '../core/config.ts';
import type { AgentStatus } from '../core/control-protocol.ts';
import { asAgentError } from '../core/errors.ts';
import type { Clock, Log } from '../core/ports.ts';
import { metricsSocketPath, type RenderPage, serveMetrics } from '../host/metrics-server.ts';
import { readProcessUsage } from '../host/process-usage.ts';
import { statusSocketPath } from '../host/runtime-dir.ts';
import { openGroupSocket, removeSocket } from '../host/unix-socket.ts';
import { readGroupId } from '../host/users.ts';
import { chooseFormat, contentTypes, type MetricsSource, renderMetrics } from '../observe/metrics.ts';
import { serveStatus } from './status-server.ts';

export interface ViewsSetting {
  directory: string;
  config: Config;
  clock: Clock;
  log: Log;
  readStatus(): AgentStatus;
  /** Brings what `readStatus` gives up to date. */
  refreshMounts(): Promise<unknown>;
  countEvents(): MetricsSource['events'];
}

export interface Views {
  close(): Promise<void>;
}

/**
 * Opens what others than root may read of the agent: the metrics, and the status for the members of a group.
 *
 * Errors: none; what cannot be opened is logged, since no mount depends on it.
 */
export async function openViews(setting: ViewsSetting): Promise<Views> {
  const statusPath = statusSocketPath(setting.directory);
  const metrics = await openMetrics(setting);
  await openStatus(setting, statusPath);
  return {
    async close() {
      await removeSocket(statusPath);
      await metrics.close();
    },
  };
}

async function openMetrics({ directory, config, clock, log, readStatus, countEvents }: ViewsSetting) {
  const { metricsSocket, metricsGroup, metricsListen: tcp } = config;
  const gid = metricsGroup === null ? null : await findGroup('metrics_group', metricsGroup, log);
  const socket = metricsSocket ? { path: metricsSocketPath(directory), gid } : null;
  const render: RenderPage = (accept) => {
    const format = chooseFormat(accept);
    const status = readStatus();
    const usage = readUsage(status.worker.pid);
    return {
      contentType: contentTypes[format],
      text: renderMetrics({ status, events: countEvents(), usage }, format),
    };
  };
  return serveMetrics({ socket, tcp }, clock, render, (place, { message }) =>
    log('warn', 'metrics.failed', { place, error: message }),
  );
}

/** For the group that may ask, and for nobody when there is none. */
async function openStatus(setting: ViewsSetting, path: string): Promise<void> {
  const { config, clock, log, readStatus, refreshMounts } = setting;
  const gid = config.statusGroup === null ? null : await findGroup('status_group', config.statusGroup, log);
  await removeSocket(path);
  if (gid === null) return;
  await openGroupSocket(path, gid).then(
    (server) =>
      serveStatus(server, clock, log, async () => {
        await refreshMounts();
        return readStatus();
      }),
    (error: unknown) => log('warn', 'status-socket.unusable', { error: asAgentError(error).message }),
  );
}

async function findGroup(key: string, name: string, log: Log): Promise<number | null> {
  const gid = await readGroupId(name);
  if (gid === null) log('warn', 'config.warning', { warning: `${key}: there is no group ${name}` });
  return gid;
}

function readUsage(workerPid: number | null): MetricsSource['usage'] {
  const agent = readProcessUsage(process.pid);
  const worker = workerPid === null ? null : readProcessUsage(workerPid);
  return { ...(agent === null ? {} : { agent }), ...(worker === null ? {} : { worker }) };
}
