import { createHash } from 'node:crypto';
import { isFileSystemId, isHostName, isRegionName } from './endpoint.ts';
import { AgentError } from './errors.ts';
import { checkMountSpec, type MountSpec } from './mount-spec.ts';

const currentVersion = 1;

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
}

export type MountStateReading = { kind: 'ok'; state: MountState } | { kind: 'damaged'; reason: string };

/** Writes a state file's text: one JSON object and a newline. */
export function formatMountState(state: MountState): string {
  // Field by field: what else the caller's object may carry is not for the disk.
  const fields = fieldNames.map((name) => [name, state[name]]);
  return `${JSON.stringify({ version: currentVersion, ...Object.fromEntries(fields) })}\n`;
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
  const fields = json as Record<string, unknown>;
  const wrong = Object.entries({ version: isVersion, ...fieldTests }).find(
    ([name, test]) => !Object.hasOwn(fields, name) || !test(fields[name]),
  );
  if (wrong !== undefined)
    return { kind: 'damaged', reason: `the field "${wrong[0]}" is missing or malformed` };
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
};

const fieldNames = Object.keys(fieldTests) as (keyof MountState)[];
