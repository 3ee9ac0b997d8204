import { execFile } from 'node:child_process';

/**
 * Tells systemd the service's state (sd_notify(3)); resolves when systemd has read it, at once outside of it.
 *
 * Node cannot send on a datagram socket of the unix family, so systemd's own `systemd-notify` does.
 */
export function notifySystemd(state: string): Promise<void> {
  if (process.env['NOTIFY_SOCKET'] === undefined) return Promise.resolve();
  return new Promise((resolve) => {
    execFile('systemd-notify', [state], () => resolve());
  });
}

/**
 * The file descriptor of the socket that systemd opened for us (sd_listen_fds(3)), or null.
 *
 * Removes the variables, as sd_listen_fds does, so that children do not take them for theirs.
 */
export function takeSocketActivationFd(environment: NodeJS.ProcessEnv): number | null {
  const mine = environment['LISTEN_PID'] === String(process.pid) && Number(environment['LISTEN_FDS']) >= 1;
  delete environment['LISTEN_PID'];
  delete environment['LISTEN_FDS'];
  delete environment['LISTEN_FDNAMES'];
  return mine ? 3 : null;
}
