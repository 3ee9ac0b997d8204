import stringWidth from 'string-width';
import type { AgentReport, MountReport, StatusReport } from '../core/status-report.ts';
import { type Column, cutEnd, layOut } from './columns.ts';

const columns: readonly Column[] = [
  { title: 'FILE SYSTEM', align: 'left', least: 10 },
  { title: 'MOUNT POINT', align: 'left', least: 10 },
  { title: 'STATE', align: 'left', least: null },
  { title: 'UP/s', align: 'right', least: null },
  { title: 'DOWN/s', align: 'right', least: null },
  { title: 'WAITING', align: 'right', least: null },
];

/** How to use the place there is. */
export interface View {
  /** Epoch milliseconds. */
  nowMs: number;
  /** Of the terminal; null where there is none, and nothing is shortened. */
  width: number | null;
}

/**
 * The status for a person: for each agent a line, a table of mounts, and under each mount where it goes, as whom, and
 * how it fares.
 */
export function renderStatus(report: StatusReport, view: View): string {
  const parts = [renderAgent(report, view)];
  for (const other of report.otherNetworkNamespaces)
    parts.push('', 'in another network namespace:', renderAgent(other, view));
  const { width } = view;
  const lines = parts.join('\n').split('\n');
  return `${(width === null ? lines : lines.map((line) => cutEnd(line, width))).join('\n')}\n`;
}

/** The agent in one line, or that there is none. */
export function describeAgent(report: AgentReport, nowMs: number): string {
  const { agent, version, pid, startedAtMs, mounts } = report;
  if (agent === 'running')
    return `efs-agent ${clean(version)}, pid ${pid}, up ${formatDuration(nowMs - (startedAtMs ?? nowMs))}`;
  const what = agent === 'silent' ? 'the agent does not answer' : 'the agent is not running';
  return mounts.length === 0
    ? `${what}; no tunnel is open`
    : `${what}; ${plural(mounts.length, 'mount')} recorded, which nobody repairs until it is back`;
}

/** The cells that `status` and `status --watch` have in common. */
export function describeMount(mount: MountReport): {
  fileSystem: string;
  mountPoint: string;
  up: string;
  down: string;
  waiting: string;
} {
  const { port, requestsInFlight, oldestRequestMs } = mount;
  const age = oldestRequestMs >= 1_000 ? `, ${formatAge(oldestRequestMs)}` : '';
  return {
    fileSystem: clean(mount.fileSystemId),
    mountPoint: clean(mount.mountPoint ?? `(port ${port ?? 'none'})`),
    up: mount.tls ? formatBytes(mount.bytesUpPerSecond) : '-',
    down: mount.tls ? formatBytes(mount.bytesDownPerSecond) : '-',
    waiting: mount.tls ? `${requestsInFlight}${requestsInFlight === 0 ? '' : age}` : '-',
  };
}

function renderAgent(report: AgentReport, { nowMs, width }: View): string {
  const { worker, mounts } = report;
  const lines = [describeAgent(report, nowMs)];
  if (worker !== null) lines.push(describeWorker(worker));
  if (mounts.length === 0) return [...lines, ...(worker === null ? [] : ['no tunnel is open'])].join('\n');
  const rows = mounts.map((mount) => {
    const { fileSystem, mountPoint, up, down, waiting } = describeMount(mount);
    return [fileSystem, mountPoint, mount.state, up, down, waiting];
  });
  const [titles, ...table] = layOut(columns, rows, width);
  lines.push('', titles!);
  for (const [at, mount] of mounts.entries()) {
    lines.push(table[at]!, ...formatDetails(mount, nowMs).flatMap((parts) => pack(parts, width)));
  }
  return lines.join('\n');
}

/** Parts of a line, indented, on as many lines as they need; only a part that is wider than that is left to be cut. */
function pack(parts: readonly string[], width: number | null): string[] {
  const lines: string[] = [];
  let line = '';
  for (const part of parts) {
    const longer = line === '' ? `  ${part}` : `${line}, ${part}`;
    const fits = width === null || stringWidth(longer) <= width;
    if (fits || line === '') line = longer;
    else {
      lines.push(`${line},`);
      line = `  ${part}`;
    }
  }
  return [...lines, line];
}

function describeWorker(worker: NonNullable<AgentReport['worker']>): string {
  const { pid, state, restarts, bufferedBytes } = worker;
  return `tunnel worker ${pid === null ? 'none' : `pid ${pid}`}, ${clean(state)}, ${plural(restarts, 'restart')}, ${formatBytes(bufferedBytes)} buffered`;
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

/** A duration in one unit, for a column of a table. Units: milliseconds. */
function formatAge(ageMs: number): string {
  const seconds = Math.floor(ageMs / 1_000);
  if (seconds < 100) return `${seconds} s`;
  return seconds < 6_000 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3_600)} h`;
}

/** What a mount point or a peer may hold, without anything that a terminal would obey. */
export function clean(text: string): string {
  return text.replace(/\p{C}/gu, '?');
}

/** The lines under a mount, each in its parts. */
function formatDetails(mount: MountReport, nowMs: number): string[][] {
  const also = mount.mountPoints
    .filter((place) => place !== mount.mountPoint)
    .map((place) => `also at ${clean(place)}`);
  const path = mount.path === '/' ? [] : [clean(mount.path)];
  const address = mount.address ?? clean(mount.dnsName);
  if (!mount.tls) return [[address, ...path, ...also, 'no tunnel: not encrypted, as tls was not given']];
  const where = [...path, `port ${mount.port}`, ...also];
  if (mount.state === 'unwatched') return [[address, ...where]];
  const accessPoint = mount.accessPointId === null ? [] : [`access point ${clean(mount.accessPointId)}`];
  return [
    [address, ...formatTls(mount, nowMs)],
    [...accessPoint, ...where],
    ...(mount.state === 'detached'
      ? [['unmounted; the kernel still uses its tunnel (open file, or another mount)']]
      : []),
    ...formatIdentity(mount, nowMs),
    [
      `${formatBytes(mount.bytesUp)} up`,
      `${formatBytes(mount.bytesDown)} down`,
      `${plural(mount.requestsInFlight, 'request')} in flight`,
      plural(mount.sessions, 'session'),
      plural(mount.reconnects, 'reconnect'),
    ],
    ...formatAlarm(mount, nowMs),
    ...formatLastError(mount, nowMs),
  ];
}

function formatTls(
  { tlsVersion, cipher, serverCertificateExpiresAtMs }: MountReport,
  nowMs: number,
): string[] {
  if (tlsVersion === null) return ['no TLS session yet'];
  return [
    clean([tlsVersion, cipher ?? ''].join(' ').trim()),
    ...(serverCertificateExpiresAtMs === null
      ? []
      : [`its certificate ${describeLife(serverCertificateExpiresAtMs, nowMs)}`]),
  ];
}

function formatIdentity(mount: MountReport, nowMs: number): string[][] {
  const { identity, clientCertificateExpiresAtMs } = mount;
  if (identity === null) return [[mount.iam ? 'no credentials yet' : 'anonymous (without the option iam)']];
  const lives = [
    ['certificate', clientCertificateExpiresAtMs] as const,
    ['credentials', identity.expiresAtMs] as const,
  ].flatMap(([what, atMs]) => (atMs === null ? [] : [`${what} ${describeLife(atMs, nowMs)}`]));
  return [
    [`as ${clean(identity.arn ?? identity.accessKeyId)}`],
    [`from ${clean(identity.source)}`, ...lives],
  ];
}

function formatAlarm(
  { alarm, clientCertificateExpiresAtMs: endsAtMs }: MountReport,
  nowMs: number,
): string[][] {
  if (alarm === null) return [];
  const present = endsAtMs === null ? 'there is none' : `the present one ${describeLife(endsAtMs, nowMs)}`;
  return [
    [`ALARM: no new certificate for ${formatDuration(nowMs - alarm.sinceMs)}`, `${present}:`],
    [`  ${clean(alarm.message)} [${clean(alarm.code)}]`],
  ];
}

function formatLastError({ lastError }: MountReport, nowMs: number): string[][] {
  if (lastError === null) return [];
  const { atMs, message, code } = lastError;
  return [[`last error ${formatDuration(nowMs - atMs)} ago: ${clean(message)} [${clean(code)}]`]];
}

function describeLife(expiresAtMs: number, nowMs: number): string {
  return expiresAtMs > nowMs
    ? `good for ${formatDuration(expiresAtMs - nowMs)}`
    : `expired ${formatDuration(nowMs - expiresAtMs)} ago`;
}

function plural(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}
