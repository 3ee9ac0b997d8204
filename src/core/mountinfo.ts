import { AgentError } from './errors.ts';

/** One line of `/proc/<pid>/mountinfo`. */
export interface MountEntry {
  mountId: number;
  parentId: number;
  major: number;
  minor: number;
  /** The directory of the file system that is the root of this mount. */
  root: string;
  mountPoint: string;
  /** Per-mount options, still escaped: a comma separates. */
  options: string;
  fsType: string;
  source: string;
  /** Per-superblock options, still escaped: a comma separates. */
  superOptions: string;
}

/**
 * Reads `/proc/<pid>/mountinfo`.
 *
 * Errors: `internal` for a line that is none: taking a mount for gone because of it would end its tunnel.
 * Source: proc_pid_mountinfo(5).
 */
export function parseMountInfo(text: string): MountEntry[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map(parseLine);
}

/** The local port of the tunnel that a kernel NFS mount talks to; null when it is not one that may be ours. */
export function tunnelPortOf({ fsType, source, superOptions }: MountEntry): number | null {
  if (fsType !== 'nfs4' || !source.startsWith('127.0.0.1:')) return null;
  const options = `,${superOptions},`;
  const port = /,port=([0-9]+),/.exec(options)?.[1];
  return port !== undefined && options.includes(',addr=127.0.0.1,') ? Number(port) : null;
}

/** The kernel NFS mounts, bind mounts of them included, that talk to the tunnel on a local port. */
export function findTunnelMounts(entries: readonly MountEntry[], port: number): MountEntry[] {
  return entries.filter((entry) => tunnelPortOf(entry) === port);
}

/** The kernel NFS mounts on a directory, whatever they talk to. */
export function findNfsMounts(entries: readonly MountEntry[], mountPoint: string): MountEntry[] {
  return entries.filter((entry) => isNfs(entry) && entry.mountPoint === mountPoint);
}

/** The NFS mount that is on top at a mount point, or null. */
export function findNfsMount(entries: readonly MountEntry[], mountPoint: string): MountEntry | null {
  const top = entries.findLast((entry) => entry.mountPoint === mountPoint);
  return top !== undefined && isNfs(top) ? top : null;
}

/** What a mount table says about NFS mounts, for many questions. */
export interface NfsIndex {
  /** Local ports of the tunnels that mounts talk to. */
  tunnelPorts: ReadonlySet<number>;
  /** Directories with an NFS mount, whatever it talks to. */
  mountPoints: ReadonlySet<string>;
}

export function indexNfsMounts(entries: readonly MountEntry[]): NfsIndex {
  const mounts = entries.filter(isNfs);
  const ports = mounts.map(tunnelPortOf).filter((port) => port !== null);
  return { tunnelPorts: new Set(ports), mountPoints: new Set(mounts.map(({ mountPoint }) => mountPoint)) };
}

/** Whether a table has a mount through the tunnel on `port`, or, without a tunnel, one on that directory. */
export function isInIndex(
  { tunnelPorts, mountPoints }: NfsIndex,
  { port, mountPoint }: { port: number | null; mountPoint: string | null },
): boolean {
  return port === null ? mountPoint !== null && mountPoints.has(mountPoint) : tunnelPorts.has(port);
}

function isNfs({ fsType }: MountEntry): boolean {
  return fsType === 'nfs4' || fsType === 'nfs';
}

function parseLine(line: string): MountEntry {
  // A source may be empty, so a field ends at each single blank.
  const fields = line.split(' ');
  const [mountId, parentId, device, root, mountPoint, options] = fields;
  const separator = fields.indexOf('-', 6);
  const [fsType, source, ...superOptions] = separator < 0 ? [] : fields.slice(separator + 1);
  const [major, minor] = (device ?? '').split(':');
  const numbers = [mountId, parentId, major, minor];
  if (!numbers.every((one) => one !== undefined && /^[0-9]+$/.test(one)) || superOptions.length === 0) {
    throw new AgentError('internal', `cannot read this line of mountinfo: ${line}`);
  }
  return {
    mountId: Number(mountId),
    parentId: Number(parentId),
    major: Number(major),
    minor: Number(minor),
    root: decodeOctal(root!),
    mountPoint: decodeOctal(mountPoint!),
    options: options!,
    fsType: decodeOctal(fsType!),
    source: decodeOctal(source!),
    superOptions: superOptions.join(' '),
  };
}

/** The kernel writes blank, tab, newline, backslash and `#` as three octal digits. */
function decodeOctal(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
