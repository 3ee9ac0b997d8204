import type { AgentStatus, MountStatus } from '../core/control-protocol.ts';

const columns = ['FILE SYSTEM', 'MOUNT POINT', 'STATE', 'SESSIONS', 'UP', 'DOWN'] as const;

/**
 * The agent's status for a person: a line for the agent, a table of mounts, and under each mount where it goes
 * and as whom. Fits 80 columns unless a path or a name is long by itself.
 *
 * @param nowMs epoch milliseconds.
 */
export function renderStatus(status: AgentStatus, nowMs: number): string {
  const { worker } = status;
  const lines = [
    `efs-agent ${clean(status.version)}, pid ${status.pid}, up ${formatDuration(nowMs - status.startedAtMs)}`,
    `tunnel worker ${worker.pid === null ? 'none' : `pid ${worker.pid}`}, ${clean(worker.state)}, ${plural(worker.restarts, 'restart')}, ${formatBytes(worker.bufferedBytes)} buffered`,
  ];
  if (status.mounts.length === 0) return `${[...lines, 'no tunnel is open'].join('\n')}\n`;
  const rows = status.mounts.map(formatRow);
  const widths = columns.map((title, at) => Math.max(title.length, ...rows.map((row) => row[at]!.length)));
  const align = (row: readonly string[]) =>
    row
      .map((cell, at) => (at < 3 ? cell.padEnd(widths[at]!) : cell.padStart(widths[at]!)))
      .join('  ')
      .trimEnd();
  lines.push('', align(columns));
  status.mounts.forEach((mount, at) => {
    lines.push(align(rows[at]!), ...formatDetails(mount, nowMs).map((line) => `  ${line}`));
  });
  return `${lines.join('\n')}\n`;
}

/** A count of bytes with three significant digits, in units of 1024. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  while (value >= 999.5 && units.length > 1) {
    value /= 1024;
    units.shift();
  }
  return `${Number.isInteger(bytes) && value === bytes ? value : value.toPrecision(3)} ${units[0]}`;
}

/** A duration in its two largest units. Units: milliseconds; negative ones count as 0. */
export function formatDuration(durationMs: number): string {
  const seconds = Math.max(0, Math.floor(durationMs / 1_000));
  const [days, hours, minutes] = [
    Math.floor(seconds / 86_400),
    Math.floor(seconds / 3_600) % 24,
    Math.floor(seconds / 60) % 60,
  ];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  if (minutes > 0) return `${minutes} min ${seconds % 60} s`;
  return `${seconds} s`;
}

function formatRow(mount: MountStatus): string[] {
  return [
    clean(mount.fileSystemId),
    clean(mount.mountPoint ?? `(port ${mount.port ?? 'none'})`),
    mount.state,
    String(mount.sessions),
    formatBytes(mount.bytesUp),
    formatBytes(mount.bytesDown),
  ];
}

function formatDetails(mount: MountStatus, nowMs: number): string[] {
  if (!mount.tls) {
    const path = mount.path === '/' ? '' : `, ${clean(mount.path)}`;
    return [`${mount.address ?? clean(mount.dnsName)}${path}: no tunnel, not encrypted (tls was not given)`];
  }
  const where = [
    mount.address ?? clean(mount.dnsName),
    mount.tlsVersion === null
      ? 'no TLS session yet'
      : clean([mount.tlsVersion, mount.cipher ?? ''].join(' ').trim()),
    `port ${mount.port}`,
    ...(mount.path === '/' ? [] : [clean(mount.path)]),
    ...(mount.reconnects === 0 ? [] : [plural(mount.reconnects, 'reconnect')]),
  ];
  const lines = [where.join(', ')];
  if (mount.accessPointId !== null) lines.push(`access point ${clean(mount.accessPointId)}`);
  lines.push(...formatIdentity(mount, nowMs));
  if (mount.lastError !== null)
    lines.push(`last error: ${clean(mount.lastError.message)} [${clean(mount.lastError.code)}]`);
  return lines;
}

function formatIdentity(mount: MountStatus, nowMs: number): string[] {
  const { identity, clientCertificateExpiresAtMs: expiresAtMs } = mount;
  if (identity === null) return [mount.iam ? 'no credentials yet' : 'anonymous (without the option iam)'];
  const certificate =
    expiresAtMs === null ? '' : `, certificate good for ${formatDuration(expiresAtMs - nowMs)}`;
  return [
    `as ${clean(identity.arn ?? identity.accessKeyId)}`,
    `from ${clean(identity.source)}${certificate}`,
  ];
}

function plural(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

/** A mount point may hold anything but NUL; a terminal shall not obey it. */
function clean(text: string): string {
  return text.replace(/\p{C}/gu, '?');
}
