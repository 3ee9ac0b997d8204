import { type AgentStatus, type MountStatus, withoutConnection } from './control-protocol.ts';
import type { MountState } from './mount-state.ts';
import { findNfsMounts, type MountEntry, tunnelPortOf } from './mountinfo.ts';

/** Raised when a field changes its meaning or goes; new fields come without. docs/status.schema.json describes it. */
export const reportVersion = 1;

/** What `efs-agent status --json` prints. */
export interface StatusReport extends AgentReport {
  schemaVersion: typeof reportVersion;
  /** Agents of other network namespaces, and mounts that such agents have left. */
  otherNetworkNamespaces: AgentReport[];
}

/** One agent with its mounts, or the mounts of one that does not answer, from its records and the mount table. */
export interface AgentReport {
  /** `silent` = it accepts connections and does not answer. */
  agent: 'running' | 'silent' | 'absent';
  /** Of the agent; without one, of the program that reports. */
  version: string;
  pid: number | null;
  startedAtMs: number | null;
  worker: AgentStatus['worker'] | null;
  mounts: MountReport[];
}

/** `unwatched` = recorded by an agent that does not answer: what is open may go on, and nobody repairs it. */
export interface MountReport extends Omit<MountStatus, 'state'> {
  state: MountStatus['state'] | 'unwatched';
  /** Every place of it in the mount namespace of who asks, bind mounts included; `mountPoint` is where it was mounted. */
  mountPoints: string[];
}

/** What an agent says, with the places of its mounts. */
export function reportAgent(status: AgentStatus, entries: readonly MountEntry[]): AgentReport {
  const findPlaces = createPlaceFinder(entries);
  const { version, pid, startedAtMs, worker, mounts } = status;
  return {
    agent: 'running',
    version,
    pid,
    startedAtMs,
    worker,
    mounts: mounts.map((mount) => ({ ...mount, mountPoints: findPlaces(mount) })),
  };
}

/** What an agent that does not answer has left. */
export function reportRecords(
  agent: 'silent' | 'absent',
  version: string,
  records: readonly MountState[],
  entries: readonly MountEntry[],
): AgentReport {
  const findPlaces = createPlaceFinder(entries);
  const mounts = records.map((record) => ({ ...describeRecord(record), mountPoints: findPlaces(record) }));
  return { agent, version, pid: null, startedAtMs: null, worker: null, mounts };
}

/** Whether mounts are there that no agent watches. */
export function isUnwatched({ agent, mounts }: AgentReport): boolean {
  return agent !== 'running' && mounts.length > 0;
}

function describeRecord(record: MountState): Omit<MountReport, 'mountPoints'> {
  const { mountId, fileSystemId, accessPointId, path, mountPoint, port, dnsName, spec } = record;
  return {
    ...{ mountId, fileSystemId, accessPointId, path, mountPoint, port, dnsName },
    state: 'unwatched',
    tls: spec.tls,
    iam: spec.iam,
    address: spec.mountTargetIp,
    ...withoutConnection,
  };
}

type Findable = Pick<MountStatus, 'port' | 'mountPoint'>;

/** Reads the table once, however many mounts there are. */
function createPlaceFinder(entries: readonly MountEntry[]): (mount: Findable) => string[] {
  const byPort = groupBy(entries, tunnelPortOf);
  const byDevice = groupBy(entries, deviceOf);
  return ({ port, mountPoint }) => {
    if (port !== null) return byPort.get(port) ?? [];
    const found = mountPoint === null ? undefined : findNfsMounts(entries, mountPoint).at(-1);
    return found === undefined ? [] : byDevice.get(deviceOf(found))!;
  };
}

const deviceOf = ({ major, minor }: MountEntry): string => `${major}:${minor}`;

function groupBy<K>(
  entries: readonly MountEntry[],
  keyOf: (entry: MountEntry) => K | null,
): Map<K, string[]> {
  const groups = new Map<K, string[]>();
  for (const entry of entries) {
    const key = keyOf(entry);
    if (key === null) continue;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [entry.mountPoint]);
    else group.push(entry.mountPoint);
  }
  return groups;
}
