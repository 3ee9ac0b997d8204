import { isIP } from 'node:net';
import { AgentError } from '../core/errors.ts';
import type { AccessPoint } from './access-point.ts';
import type { ListenAddress } from './listener.ts';
import type { TargetOptions } from './target.ts';

/** The options of `efs-agent target` as they were typed. */
export interface TargetArguments {
  region: string;
  dnsSuffix: string;
  account: string;
  role: string;
  instanceId: string;
  fileSystem: readonly string[];
  accessPoint: readonly string[];
  policy: string | undefined;
  listen: readonly string[];
  metadata: string;
  metadataV1: boolean;
  stateDir: string | undefined;
  credentialsLifetime: number;
  maxConnections: number;
  scaleUpBytesPerSecond: number;
  limitBytesPerSecond: number | undefined;
}

export const nfsPort = 2_049;

/**
 * Reads the options of `efs-agent target`.
 *
 * Errors: `usage`, `option.malformed`, `region.malformed`, `access-point.malformed`, `option.conflict`.
 */
export function parseTargetArguments(typed: TargetArguments): Omit<TargetOptions, 'onEvent' | 'nowMs'> {
  const fileSystems = typed.fileSystem.map(parseFileSystem);
  if (fileSystems.length === 0) {
    throw new AgentError('usage', 'name at least one file system', {
      hint: 'For example --file-system fs-0123456789abcdef0.',
    });
  }
  const accessPoints = typed.accessPoint.map(parseAccessPoint);
  const listen = typed.listen.map(parseListen);
  rejectRepeated(
    '--file-system',
    fileSystems.map(({ id }) => id),
  );
  rejectRepeated(
    '--access-point',
    accessPoints.map(({ id }) => id),
  );
  const named = [
    ...accessPoints.map(({ id, fileSystemId }) => [`access point ${id}`, fileSystemId] as const),
    ...listen.map(({ address, fileSystemId }) => [`--listen ${address}`, fileSystemId] as const),
  ];
  for (const [what, fileSystemId] of named) {
    if (fileSystemId !== null && !fileSystems.some(({ id }) => id === fileSystemId)) {
      throw malformed(
        `${what} belongs to ${fileSystemId}, which no --file-system names`,
        `Add --file-system ${fileSystemId}.`,
      );
    }
  }
  if (!/^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/.test(typed.region)) {
    throw new AgentError('region.malformed', `"${typed.region}" is not a region name`);
  }
  mustMatch('--dns-suffix', typed.dnsSuffix, /^[a-z0-9-]+(\.[a-z0-9-]+)+$/, 'a domain such as amazonaws.com');
  mustMatch('--account', typed.account, /^\d{12}$/, 'twelve digits');
  mustMatch('--role', typed.role, /^[\w+=,.@-]{1,64}$/, 'the name of a role, without its path');
  mustMatch('--instance-id', typed.instanceId, /^i-[0-9a-f]{8,17}$/, 'i- and up to 17 hexadecimal digits');
  const lifetime = typed.credentialsLifetime;
  if (!Number.isInteger(lifetime) || lifetime < 1 || lifetime > 604_800) {
    throw malformed(
      `--credentials-lifetime ${lifetime} is not a number of seconds`,
      'Write a whole number from 1 to 604800.',
    );
  }
  mustBeCount('--max-connections', typed.maxConnections, 1, 64);
  mustBeCount('--scale-up-bytes-per-second', typed.scaleUpBytesPerSecond, 0, 2_147_483_647);
  const limit = typed.limitBytesPerSecond;
  if (limit !== undefined) mustBeCount('--limit-bytes-per-second', limit, 1, Number.MAX_SAFE_INTEGER);
  return {
    region: typed.region,
    dnsSuffix: typed.dnsSuffix,
    partition: typed.region.startsWith('cn-')
      ? 'aws-cn'
      : typed.region.startsWith('us-gov-')
        ? 'aws-us-gov'
        : 'aws',
    accountId: typed.account,
    roleName: typed.role,
    instanceId: typed.instanceId,
    fileSystems,
    accessPoints,
    policyFile: typed.policy ?? null,
    listen,
    metadata: { ...parseMetadataAddress(typed.metadata), tokenOptional: typed.metadataV1 },
    stateDirectory: typed.stateDir ?? null,
    credentialsLifetimeMs: lifetime * 1_000,
    multiplexing: {
      maxConnections: typed.maxConnections,
      thresholdBytesPerSecond: typed.scaleUpBytesPerSecond,
    },
    limitBytesPerSecond: limit ?? null,
  };
}

/** `fs-<hex>[=DIRECTORY]`. */
function parseFileSystem(text: string): { id: string; directory: string | null } {
  const parts = /^(fs-[0-9a-f]+)(?:=(.+))?$/s.exec(text);
  if (parts === null) {
    throw new AgentError('spec.malformed', `--file-system ${text} is not a file system id`, {
      hint: 'Write fs-<hex digits>[=DIRECTORY].',
    });
  }
  if (parts[2] !== undefined) mustBePlainPath('--file-system', parts[2]);
  return { id: parts[1]!, directory: parts[2] ?? null };
}

/** `fsap-<17 hex>=fs-<hex>:/path[:uid:gid[:mode]]`. */
function parseAccessPoint(text: string): AccessPoint {
  const parts = /^(fsap-[0-9a-f]{17})=(fs-[0-9a-f]+):(\/[^:]*)(?::(\d+):(\d+)(?::([0-7]{3,4}))?)?$/s.exec(
    text,
  );
  if (parts === null) {
    throw new AgentError('access-point.malformed', `--access-point ${text} is not an access point`, {
      hint: 'Write fsap-<17 hex digits>=fs-<hex digits>:/PATH[:UID:GID[:MODE]], for example fsap-0123456789abcdef0=fs-0123:/app:1000:1000:0750.',
    });
  }
  const [, id, fileSystemId, path, uid, gid, mode] = parts;
  mustBePlainPath('--access-point', path!);
  if (path!.split('/').some((part) => part === '.' || part === '..')) {
    throw malformed(`the path ${path} of ${id} has a "." or ".." in it`, 'Write the path without them.');
  }
  const user = uid === undefined ? null : { uid: Number(uid), gid: Number(gid) };
  if (user !== null && Math.max(user.uid, user.gid) > 4_294_967_294) {
    throw malformed(`the user ${uid}:${gid} of ${id} is out of range`, 'Write numbers from 0 to 4294967294.');
  }
  return {
    id: id!,
    fileSystemId: fileSystemId!,
    path: path!,
    user,
    createMode: user === null ? null : Number.parseInt(mode ?? '755', 8),
  };
}

/** `ADDRESS[:PORT][=fs-<hex>]`. */
function parseListen(text: string): ListenAddress {
  const [addressText = '', fileSystemId = null, ...more] = text.split('=');
  const parsed = more.length === 0 ? parseAddress(addressText, nfsPort) : null;
  if (parsed === null || (fileSystemId !== null && !/^fs-[0-9a-f]+$/.test(fileSystemId))) {
    throw malformed(
      `--listen ${text} is not an address`,
      'Write ADDRESS[:PORT][=fs-<hex digits>], for example 127.0.0.1:2049.',
    );
  }
  return { ...parsed, fileSystemId };
}

function parseMetadataAddress(text: string): { address: string; port: number } {
  const parsed = parseAddress(text, null);
  if (parsed === null)
    throw malformed(
      `--metadata ${text} is not an address and port`,
      'Write ADDRESS:PORT, for example 127.0.0.1:1338.',
    );
  return parsed;
}

/** An IP literal with a port; IPv6 in brackets. Null for anything else. */
function parseAddress(text: string, defaultPort: number | null): { address: string; port: number } | null {
  const parts = /^(?:\[([0-9a-f:.]+)\]|([0-9.]+))(?::(\d{1,5}))?$/i.exec(text);
  const address = parts?.[1] ?? parts?.[2] ?? '';
  const port = parts?.[3] === undefined ? defaultPort : Number(parts[3]);
  const isBracketed = parts?.[1] !== undefined;
  return isIP(address) !== (isBracketed ? 6 : 4) || port === null || port > 65_535 ? null : { address, port };
}

/** The NFS server reads paths from a configuration file, in quotes. */
function mustBePlainPath(option: string, path: string): void {
  const isPlain = [...path].every((character) => character >= ' ' && character !== '"' && character !== '\\');
  if (!isPlain)
    throw malformed(
      `${option}: the path has a quote, a backslash or a control character`,
      'Name another path.',
    );
}

function mustBeCount(option: string, value: number, least: number, most: number): void {
  if (Number.isInteger(value) && value >= least && value <= most) return;
  throw malformed(`${option} ${value} is not right`, `Write a whole number from ${least} to ${most}.`);
}

function mustMatch(option: string, text: string, shape: RegExp, what: string): void {
  if (!shape.test(text)) throw malformed(`${option} ${text} is not right`, `Write ${what}.`);
}

function rejectRepeated(option: string, ids: readonly string[]): void {
  const repeated = ids.find((id, index) => ids.indexOf(id) !== index);
  if (repeated !== undefined)
    throw new AgentError('option.conflict', `${option} names ${repeated} twice`, { hint: 'Name it once.' });
}

function malformed(message: string, hint: string): AgentError {
  return new AgentError('option.malformed', message, { hint });
}
