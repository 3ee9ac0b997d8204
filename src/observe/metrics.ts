import type { AgentStatus, MountStatus } from '../core/control-protocol.ts';
import { events } from '../core/events.ts';

/** What the metrics are made of at one moment. */
export interface MetricsSource {
  status: AgentStatus;
  /** How often each event of the log has occurred. */
  events: ReadonlyMap<string, number>;
  /** Of those of our processes that run. */
  usage: Partial<Record<'agent' | 'worker', ProcessUsage>>;
}

export interface ProcessUsage {
  cpuSeconds: number;
  residentBytes: number;
}

/** `text` is the Prometheus format 0.0.4, `openmetrics` is OpenMetrics 1.0. */
export type MetricsFormat = 'text' | 'openmetrics';

export const contentTypes: Readonly<Record<MetricsFormat, string>> = {
  text: 'text/plain; version=0.0.4; charset=utf-8',
  openmetrics: 'application/openmetrics-text; version=1.0.0; charset=utf-8',
};

/** One value: those of the metric's labels in their order, then the number. */
type Sample = readonly [...labels: string[], value: number];

interface Metric {
  readonly type: 'counter' | 'gauge';
  readonly labels: readonly string[];
  readonly help: string;
  readonly read: (source: MetricsSource) => readonly Sample[];
}

/** No more values than there are mounts: all three are the mount's own. */
const mountLabels = ['mount', 'file_system', 'access_point'] as const;
/** Each state of a mount, and whether its mount target answers in it. */
const states: Readonly<Record<MountStatus['state'], boolean>> = {
  opening: false,
  mounting: false,
  mounted: true,
  tunnel: true,
  detached: true,
  closing: true,
  reconnecting: false,
  stalled: false,
};

/**
 * Every metric, by name; docs/metrics.md is made from this table. A unit, if there is one, is the end of the name, before `_total`.
 *
 * Source: prometheus.io, "Metric and label naming"; OpenMetrics 1.0.
 */
export const metrics: Readonly<Record<string, Metric>> = {
  efs_agent_build_info: gauge('Always 1; the version of the agent.', ['version'], ({ status }) => [
    [status.version, 1],
  ]),
  efs_agent_start_time_seconds: gauge(
    'When the agent was started, or the one that it has taken over from, in seconds since 1970.',
    [],
    ({ status }) => [[status.startedAtMs / 1_000]],
  ),
  efs_agent_process_cpu_seconds_total: counter(
    'Processor time of the agent and of the tunnel worker.',
    ['process'],
    ({ usage }) => Object.entries(usage).map(([process, { cpuSeconds }]) => [process, cpuSeconds]),
  ),
  efs_agent_process_resident_memory_bytes: gauge(
    'Memory of the agent and of the tunnel worker.',
    ['process'],
    ({ usage }) => Object.entries(usage).map(([process, { residentBytes }]) => [process, residentBytes]),
  ),
  efs_agent_worker_up: gauge(
    '1 while the tunnel worker serves; 0 also when no mount needs one.',
    [],
    ({ status }) => [[status.worker.state === 'up' ? 1 : 0]],
  ),
  efs_agent_worker_restarts_total: counter(
    'Tunnel workers that ended by themselves or hung, and were replaced.',
    [],
    ({ status }) => [[status.worker.restarts]],
  ),
  efs_agent_worker_buffered_bytes: gauge('Bytes that wait in the tunnel worker.', [], ({ status }) => [
    [status.worker.bufferedBytes],
  ]),
  efs_agent_mounts: gauge('Mounts in each state, as efs-agent status shows them.', ['state'], ({ status }) =>
    Object.keys(states).map((state) => [
      state,
      status.mounts.filter((mount) => mount.state === state).length,
    ]),
  ),
  efs_agent_events_total: counter(
    'Events of the log, whether they were written or held back; docs/logs.md says what they mean.',
    ['event'],
    (source) => Object.keys(events).map((event) => [event, source.events.get(event) ?? 0]),
  ),
  efs_mount_info: {
    type: 'gauge',
    labels: [...mountLabels, 'mount_point', 'address', 'tls_version', 'cipher'],
    help: 'Always 1; where a mount is, and where it goes.',
    read: ({ status }) =>
      status.mounts.map((mount) => [
        ...labelsOf(mount),
        ...[mount.mountPoint, mount.address, mount.tlsVersion, mount.cipher].map((label) => label ?? ''),
        1,
      ]),
  },
  efs_mount_up: ofMounts(
    'gauge',
    '1 while a mount or tunnel is there and its mount target answers.',
    ({ state }) => (state === 'mounted' || state === 'tunnel' ? 1 : 0),
  ),
  efs_mount_sessions: ofTunnels(
    'gauge',
    'Connections of the kernel to the tunnel.',
    (mount) => mount.sessions,
  ),
  efs_mount_connections: ofTunnels(
    'gauge',
    'TLS connections to the mount target.',
    (mount) => mount.connections,
  ),
  efs_mount_reconnects_total: ofTunnels(
    'counter',
    'How often the kernel has connected again.',
    (mount) => mount.reconnects,
  ),
  efs_mount_sent_bytes_total: ofTunnels('counter', 'Bytes to the mount target.', (mount) => mount.bytesUp),
  efs_mount_received_bytes_total: ofTunnels(
    'counter',
    'Bytes from the mount target.',
    (mount) => mount.bytesDown,
  ),
  efs_mount_requests_in_flight: ofTunnels(
    'gauge',
    'Requests of the kernel that wait for an answer.',
    (mount) => mount.requestsInFlight,
  ),
  efs_mount_oldest_request_age_seconds: ofTunnels(
    'gauge',
    'Age of the oldest request without an answer; 0 when there is none.',
    (mount) => mount.oldestRequestMs / 1_000,
  ),
  efs_mount_last_error_timestamp_seconds: ofTunnels(
    'gauge',
    'When something went wrong last, in seconds since 1970; absent when nothing has.',
    ({ lastError }) => seconds(lastError?.atMs),
  ),
  efs_mount_credentials_alarm: ofTunnels(
    'gauge',
    '1 while the client certificate cannot be replaced any more, as its credentials cannot be had.',
    ({ alarm }) => (alarm === null ? 0 : 1),
  ),
  efs_mount_server_certificate_expiry_timestamp_seconds: ofTunnels(
    'gauge',
    'When the certificate of the mount target expires, in seconds since 1970.',
    (mount) => seconds(mount.serverCertificateExpiresAtMs),
  ),
  efs_mount_client_certificate_expiry_timestamp_seconds: ofTunnels(
    'gauge',
    'When the client certificate expires, in seconds since 1970; absent for a mount without one.',
    (mount) => seconds(mount.clientCertificateExpiresAtMs),
  ),
  efs_mount_credentials_expiry_timestamp_seconds: ofTunnels(
    'gauge',
    'When the credentials in the client certificate expire, in seconds since 1970; absent when they do not.',
    ({ identity }) => seconds(identity?.expiresAtMs),
  ),
};

/** The unit that a name ends with; null for a plain number. */
export function unitOf(name: string): string | null {
  return /_(bytes|seconds)(?:_total)?$/.exec(name)?.[1] ?? null;
}

/** The page that a scraper gets. Errors: none. */
export function renderMetrics(source: MetricsSource, format: MetricsFormat): string {
  const lines: string[] = [];
  for (const [name, { type, labels, help, read }] of Object.entries(metrics)) {
    const family = format === 'openmetrics' ? name.replace(/_total$/, '') : name;
    const unit = unitOf(name);
    lines.push(`# HELP ${family} ${help}`, `# TYPE ${family} ${type}`);
    if (format === 'openmetrics' && unit !== null) lines.push(`# UNIT ${family} ${unit}`);
    for (const sample of read(source)) lines.push(`${name}${renderLabels(labels, sample)} ${sample.at(-1)}`);
  }
  if (format === 'openmetrics') lines.push('# EOF');
  return `${lines.join('\n')}\n`;
}

/** Which of the formats a scraper asks for. */
export function chooseFormat(accept: string | undefined): MetricsFormat {
  return accept?.includes('application/openmetrics-text') === true ? 'openmetrics' : 'text';
}

function renderLabels(names: readonly string[], sample: Sample): string {
  if (names.length === 0) return '';
  return `{${names.map((name, at) => `${name}="${escapeLabel(String(sample[at]))}"`).join(',')}}`;
}

function escapeLabel(text: string): string {
  return text.replace(/[\\"\n]/g, (character) => (character === '\n' ? '\\n' : `\\${character}`));
}

function labelsOf({ mountId, fileSystemId, accessPointId }: MountStatus): string[] {
  return [mountId, fileSystemId, accessPointId ?? ''];
}

function gauge(help: string, labels: readonly string[], read: Metric['read']): Metric {
  return { type: 'gauge', labels, help, read };
}

function counter(help: string, labels: readonly string[], read: Metric['read']): Metric {
  return { type: 'counter', labels, help, read };
}

/** A value for each mount that has one. */
function ofMounts(type: Metric['type'], help: string, read: (mount: MountStatus) => number | null): Metric {
  return {
    type,
    labels: mountLabels,
    help,
    read: ({ status }) =>
      status.mounts.flatMap((mount): Sample[] => {
        const value = read(mount);
        return value === null ? [] : [[...labelsOf(mount), value]];
      }),
  };
}

/** The same for mounts with a tunnel: of the others nothing is known. */
function ofTunnels(type: Metric['type'], help: string, read: (mount: MountStatus) => number | null): Metric {
  return ofMounts(type, help, (mount) => (mount.tls ? read(mount) : null));
}

function seconds(epochMs: number | null | undefined): number | null {
  return epochMs === null || epochMs === undefined ? null : epochMs / 1_000;
}
