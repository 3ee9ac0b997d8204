import { createHash } from 'node:crypto';
import { isCallerSocketName } from './control-protocol.ts';
import { isFileSystemId, isHostName, isRegionName } from './endpoint.ts';
import { AgentError } from './errors.ts';
import { checkMountSpec, type MountSpec } from './mount-spec.ts';

/** Since 2 a state file ends with a checksum. */
const currentVersion = 2;

/** What the agent keeps about one mount, so that another agent can take it over. Holds no secret. */
export interface MountState {
  /** Name of the mount and of its state file. */
  mountId: string;
  fileSystemId: string;
  accessPointId: string | null;
  /** Directory inside the file system. */
  path: string;
  mountPoint: string;
  /** Local port of the tunnel; null without one. */
  port: number | null;
  dnsName: string;
  region: string;
  spec: MountSpec;
  /** The caller's `AWS_*` variables that name a credential source; none of them is a secret. */
  environment: Record<string, string>;
  /** Epoch milliseconds. */
  createdAtMs: number;
  /** Name of the socket on which whoever makes the mount is called; null when nobody can be. */
  callerSocket: string | null;
}

export type MountStateReading = { kind: 'ok'; state: MountState } | { kind: 'damaged'; reason: string };

/** Writes a state file's text: one JSON object, whose last field is the checksum of all before it, and a newline. */
export function formatMountState(state: MountState): string {
  // Field by field: what else the caller's object may carry is not for the disk.
  const fields = fieldNames.map((name) => [name, state[name]]);
  const text = JSON.stringify({ version: currentVersion, ...Object.fromEntries(fields) }).slice(0, -1);
  return `${text},"checksum":"${checksumOf(text)}"}\n`;
}

/**
 * Reads a state file of this version, the one before or the one after; fields it does not know are dropped.
 *
 * Errors: none; a text that is no whole state file is `damaged`, with a reason for the log.
 */
export function parseMountState(text: string): MountStateReading {
  // The newline comes last: a text without it was cut off.
  if (!text.endsWith('\n')) return { kind: 'damaged', reason: 'the file is cut off' };
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return { kind: 'damaged', reason: 'the file is not JSON' };
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    return { kind: 'damaged', reason: 'the file is not a JSON object' };
  // A version that did not call anybody has no name of a socket.
  const fields: Record<string, unknown> = { callerSocket: null, ...json };
  const wrong = Object.entries({ version: isVersion, ...fieldTests }).find(
    ([name, test]) => !Object.hasOwn(fields, name) || !test(fields[name]),
  );
  if (wrong !== undefined)
    return { kind: 'damaged', reason: `the field "${wrong[0]}" is missing or malformed` };
  if (!isChecksumRight(text, fields)) return { kind: 'damaged', reason: 'the checksum is wrong' };
  try {
    const state = Object.fromEntries(fieldNames.map((name) => [name, fields[name]]));
    return {
      kind: 'ok',
      state: { ...(state as unknown as MountState), spec: checkMountSpec(fields['spec']) },
    };
  } catch (error) {
    if (!(error instanceof AgentError)) throw error;
    return { kind: 'damaged', reason: `in its mount spec, ${error.message}` };
  }
}

/** One of the places where a mount is recorded; text null = there, and unreadable. */
export interface MountRecord {
  path: string;
  text: string | null;
}

/**
 * Reads what is recorded about one mount, in each place: the first whole one counts.
 *
 * Errors: none; the others are `damaged`, with a reason for the log.
 */
export function chooseMountState(records: readonly MountRecord[]): {
  state: MountState | null;
  damaged: { path: string; reason: string }[];
} {
  let state: MountState | null = null;
  const damaged: { path: string; reason: string }[] = [];
  for (const { path, text } of records) {
    const reading: MountStateReading =
      text === null ? { kind: 'damaged', reason: 'the file cannot be read' } : parseMountState(text);
    if (reading.kind === 'damaged') damaged.push({ path, reason: reading.reason });
    else state ??= reading.state;
  }
  return { state, damaged };
}

/** Whether the kernel may talk to both through one connection: access points of one file system are servers of their own. */
export function isSameServer(one: Pick<MountState, 'fileSystemId' | 'spec'>, other: typeof one): boolean {
  return one.fileSystemId === other.fileSystemId && one.spec.accessPoint === other.spec.accessPoint;
}

/**
 * Names a mount and its state file: `<fs-id>.<mount point with dots>.<port>`, as the reference does, or `.direct`
 * in the place of the port of a tunnel.
 *
 * A name too long for a file keeps its beginning and gets a hash.
 *
 * @param mountPoint an absolute path.
 *
 * Source: specification 6.3.
 */
export function planMountId(fileSystemId: string, mountPoint: string, tunnelPort: number | null): string {
  const port = tunnelPort ?? 'direct';
  const names: string[] = [];
  for (const name of mountPoint.split('/')) {
    if (name === '..') names.pop();
    else if (name !== '' && name !== '.') names.push(name);
  }
  const safe = names.join('.').replace(/^\.+/, '');
  const whole = `${fileSystemId}.${safe}.${port}`;
  if (Buffer.byteLength(whole) <= maxNameBytes) return whole;
  const hash = createHash('sha256').update(safe).digest('hex').slice(0, 16);
  const room = maxNameBytes - Buffer.byteLength(`${fileSystemId}..${hash}.${port}`) - 1;
  return `${fileSystemId}.${cutToBytes(safe, room)}.${hash}.${port}`;
}

/** NAME_MAX is 255 bytes; the rest is left for the ending of a temporary file. */
const maxNameBytes = 230;

function cutToBytes(text: string, bytes: number): string {
  return Buffer.from(text)
    .subarray(0, bytes)
    .toString()
    .replace(/\uFFFD+$/, '');
}

/** A file of version 1 has none. Cut off is only what stands behind the last field, whatever a later version calls its fields. */
function isChecksumRight(text: string, fields: Record<string, unknown>): boolean {
  if (fields['version'] === 1 && !Object.hasOwn(fields, 'checksum')) return true;
  const covered = /^(.*),"checksum":"([0-9a-f]{64})"\}\n$/s.exec(text);
  return covered !== null && covered[2] === checksumOf(covered[1]!);
}

function checksumOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

const isText = (value: unknown): boolean => typeof value === 'string' && value !== '';
const isVersion = (value: unknown): boolean =>
  Number.isInteger(value) && Math.abs((value as number) - currentVersion) <= 1;

const fieldTests: { [K in keyof MountState]: (value: unknown) => boolean } = {
  mountId: (value) => isText(value) && !/[/\0]/.test(value as string),
  fileSystemId: (value) => typeof value === 'string' && isFileSystemId(value),
  accessPointId: (value) => value === null || isText(value),
  path: (value) => typeof value === 'string' && value.startsWith('/'),
  mountPoint: (value) => typeof value === 'string' && value.startsWith('/'),
  port: (value) =>
    value === null || (Number.isInteger(value) && (value as number) >= 1 && (value as number) <= 65535),
  dnsName: (value) => typeof value === 'string' && isHostName(value),
  region: (value) => typeof value === 'string' && isRegionName(value),
  spec: (value) => typeof value === 'object',
  environment: (value) =>
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((entry) => typeof entry === 'string'),
  createdAtMs: (value) => Number.isFinite(value),
  callerSocket: (value) => value === null || isCallerSocketName(value),
};

const fieldNames = Object.keys(fieldTests) as (keyof MountState)[];
