import { execFile } from 'node:child_process';

/** Whether systemd started us as a service that tells of itself. */
export function isUnderSystemd(): boolean {
  return process.env['NOTIFY_SOCKET'] !== undefined;
}

/**
 * Tells systemd the service's state (sd_notify(3)); resolves when systemd has read it, at once outside of it.
 *
 * Node cannot send on a datagram socket of the unix family, so systemd's own `systemd-notify` does.
 */
export function notifySystemd(states: string[]): Promise<void> {
  if (!isUnderSystemd() || states.length === 0) return Promise.resolve();
  return new Promise((resolve) => {
    execFile('systemd-notify', states, () => resolve());
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
