import { isFileSystemId, isHostName, isRegionName, isZoneName } from './endpoint.ts';
import { AgentError, type Details } from './errors.ts';

/** One item of a mount option string; `value` is null when there was no `=`. Quotes stay in the value. */
export interface MountOption {
  name: string;
  value: string | null;
}

/** What is to be mounted: a file system id, or a DNS name that must turn out to be a file system's. */
export type Remote = { kind: 'file-system'; id: string } | { kind: 'name'; name: string };

/** A mount as the user asked for it, checked. Plain JSON: it travels to the agent and into the state file. */
export interface MountSpec {
  remote: Remote;
  /** Directory inside the file system, starting with `/`. */
  path: string;
  tls: boolean;
  iam: boolean;
  accessPoint: string | null;
  region: string | null;
  /** Name of the availability zone whose mount target is wanted. */
  zone: string | null;
  /** The file system is another account's: its name begins with the zone id of this instance. */
  crossAccount: boolean;
  /** IPv4 or IPv6 literal without brackets. */
  mountTargetIp: string | null;
  /** Path of the network namespace to mount in; null = the caller's. */
  networkNamespace: string | null;
  /** Local port of the tunnel; null lets the agent choose. */
  tlsPort: number | null;
  caFile: string | null;
  /** This mount does without the OCSP check that the configuration asks for. */
  noOcsp: boolean;
  awsCredsUri: string | null;
  awsProfile: string | null;
  /** With `jwtPath`: the role to assume with the web identity token in that file. */
  roleArn: string | null;
  jwtPath: string | null;
  /** Everything that is not ours, in the user's order, for mount.nfs4. */
  nfsOptions: MountOption[];
}

/** What the command line of `mount.efs` asks for. */
export type HelperInvocation =
  | { kind: 'help' }
  | { kind: 'version' }
  | {
      kind: 'mount';
      device: string;
      mountPoint: string;
      options: MountOption[];
      /** Do everything but mount. */
      fake: boolean;
      verbose: boolean;
      /** Tolerate options that mount.nfs4 does not know. */
      sloppy: boolean;
    };

/** What the command line of `umount.efs` asks for. */
export type UmountInvocation =
  | { kind: 'help' }
  | { kind: 'version' }
  | {
      kind: 'umount';
      mountPoint: string;
      lazy: boolean;
      force: boolean;
      verbose: boolean;
      /** Remount read-only when unmounting fails. */
      readOnly: boolean;
    };

/** Options of ours: whether they take a value. Every option that is not listed here or below goes to mount.nfs4. */
const ownOptions = new Map<string, 'flag' | 'value'>([
  ['tls', 'flag'],
  ['iam', 'flag'],
  ['accesspoint', 'value'],
  ['region', 'value'],
  ['az', 'value'],
  ['crossaccount', 'flag'],
  ['mounttargetip', 'value'],
  ['netns', 'value'],
  ['tlsport', 'value'],
  ['verify', 'value'],
  ['cafile', 'value'],
  ['noocsp', 'flag'],
  ['awscredsuri', 'value'],
  ['awsprofile', 'value'],
  ['rolearn', 'value'],
  ['jwtpath', 'value'],
  // What these ask for is so without them: no TLS unless asked for, a TLS tunnel, no reads past the mount target.
  ['notls', 'flag'],
  ['stunnel', 'flag'],
  ['nodirects3read', 'flag'],
  ['nos3readcache', 'flag'],
]);

/** Their names as a shell completes them: with "=" where a value follows. */
export const mountOptionNames: readonly string[] = [...ownOptions].map(([name, kind]) =>
  kind === 'value' ? `${name}=` : name,
);

/** Options of the reference that are refused, because ignoring one would mount something else, and what to do. */
const refusedOptions: ReadonlyMap<string, string> = new Map([
  ['ocsp', 'Leave it out: efs-agent makes no OCSP check, and says so rather than skip one.'],
  ['capath', 'Name one PEM file with cafile=<file>.'],
  ['fsap', 'Write accesspoint=fsap-<id>.'],
  ['azid', 'It is for S3 Files; write az=<zone name>.'],
]);

const exclusiveOptions = [
  ['port', 'tls'],
  ['tls', 'notls'],
  ['ocsp', 'noocsp'],
  ['awscredsuri', 'awsprofile'],
  ['awscredsuri', 'rolearn'],
  ['awsprofile', 'rolearn'],
] as const;

/**
 * Reads the command line that mount(8) gives a helper: `mount.efs <device> <dir> [-sfnv] [-o options] [-t type]`,
 * flags and operands in any order.
 *
 * Errors: `usage`; `option.unsupported` for `-N`; `option.malformed`. Source: mount(8), "EXTERNAL HELPERS".
 *
 * @param argv the arguments after the program's name.
 */
export function parseHelperArgv(argv: readonly string[]): HelperInvocation {
  const words = splitArgv(argv, mountLine);
  if (words.kind !== 'words') return words;
  refuseForeignNamespaceAndType(words);
  const [device, mountPoint, ...rest] = words.operands;
  if (!device || !mountPoint || rest.length > 0)
    throw misused(mountLine, `expected a file system and a directory, got ${inQuotes(words.operands)}`);
  return {
    kind: 'mount',
    device,
    mountPoint,
    options: mergeOptions(words.values.filter((v) => v.letter === 'o').map((v) => parseOptions(v.value))),
    fake: words.flags.has('f'),
    verbose: words.flags.has('v'),
    sloppy: words.flags.has('s'),
  };
}

/**
 * Reads the command line that umount(8) gives a helper: `umount.efs <dir> [-nlfvr] [-t type]`.
 *
 * Errors: `usage`; `option.unsupported` for `-N`. Source: umount(8), "EXTERNAL HELPERS".
 *
 * @param argv the arguments after the program's name.
 */
export function parseUmountArgv(argv: readonly string[]): UmountInvocation {
  const words = splitArgv(argv, umountLine);
  if (words.kind !== 'words') return words;
  refuseForeignNamespaceAndType(words);
  const [mountPoint, ...rest] = words.operands;
  if (!mountPoint || rest.length > 0)
    throw misused(umountLine, `expected one directory, got ${inQuotes(words.operands)}`);
  return {
    kind: 'umount',
    mountPoint,
    lazy: words.flags.has('l'),
    force: words.flags.has('f'),
    verbose: words.flags.has('v'),
    readOnly: words.flags.has('r'),
  };
}

/**
 * Reads a mount option string: items separated by commas, double quotes protect a comma, the first `=` splits.
 *
 * Blanks around an item and empty items are dropped. A later duplicate replaces an earlier one in the earlier
 * one's place.
 *
 * Errors: `option.malformed` for an open quote, a control character, an empty name, or a blank or quote in a name.
 * Source: specification 1.3; quotes as in mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS".
 */
export function parseOptions(text: string): MountOption[] {
  const control = /\p{Cc}/u.exec(text);
  if (control !== null) {
    throw new AgentError(
      'option.malformed',
      `mount options hold a control character at position ${control.index + 1}`,
    );
  }
  const items: string[] = [];
  let item = '';
  let quoted = false;
  for (const character of text) {
    if (character === '"') quoted = !quoted;
    if (character === ',' && !quoted) {
      items.push(item);
      item = '';
    } else {
      item += character;
    }
  }
  if (quoted)
    throw new AgentError('option.malformed', `mount options hold a quote that is not closed: ${text}`);
  items.push(item);
  return mergeOptions([
    items
      .map((one) => one.trim())
      .filter((one) => one !== '')
      .map(parseOption),
  ]);
}

/** Writes options as an option string that `parseOptions` reads back. */
export function formatOptions(options: readonly MountOption[]): string {
  return options.map(({ name, value }) => (value === null ? name : `${name}=${value}`)).join(',');
}

/**
 * Turns device and options into the mount that is asked for, or says what is wrong with them.
 *
 * Errors: `spec.malformed`, `option.unsupported`, `option.conflict`, `option.requires`, `option.malformed`,
 * `access-point.malformed`, `region.malformed`. Source: specification 1.2, 1.5, 1.8; what the reference drops
 * without a word (docs/migration.md), a flag with a value and a value option without one are refused.
 */
export function parseMountSpec(device: string, options: readonly MountOption[]): MountSpec {
  const { remote, path } = parseDevice(device);
  const given = new Map(options.map((option) => [option.name, option.value]));
  for (const [a, b] of exclusiveOptions) {
    if (given.has(a) && given.has(b)) {
      throw new AgentError('option.conflict', `The "${a}" and "${b}" options are mutually exclusive`, {
        options: `${a},${b}`,
      });
    }
  }
  refuseOptions([...given.keys()].filter((name) => refusedOptions.has(name)));
  const own = readOwnOptions(given);
  own('verify', checkVerifyLevel);
  const spec: MountSpec = {
    remote,
    path,
    tls: given.has('tls'),
    iam: given.has('iam'),
    accessPoint: own('accesspoint', parseAccessPoint),
    region: own('region', parseRegion),
    zone: own('az', parseZone),
    crossAccount: given.has('crossaccount'),
    mountTargetIp: own('mounttargetip', parseAddress),
    networkNamespace: own('netns', parseNetworkNamespace),
    tlsPort: own('tlsport', parseTlsPort),
    caFile: own('cafile', (text) => text),
    noOcsp: given.has('noocsp'),
    awsCredsUri: own('awscredsuri', parseCredentialsUri),
    awsProfile: own('awsprofile', (text) => text),
    roleArn: own('rolearn', parseRoleArn),
    jwtPath: own('jwtpath', (text) => text),
    nfsOptions: options
      .filter(({ name }) => !ownOptions.has(name))
      .map(({ name, value }) => ({ name, value })),
  };
  checkRequirements(spec, given);
  return spec;
}

/**
 * Checks a mount spec that another of our processes sent; fields this version does not know are dropped.
 *
 * Errors: `agent.protocol`, naming the field.
 */
export function checkMountSpec(value: unknown): MountSpec {
  const spec = asRecord(value, 'mount spec');
  const checked: MountSpec = {
    remote: checkRemote(spec['remote']),
    path: check(spec, 'path', isPath),
    tls: check(spec, 'tls', isBoolean),
    iam: check(spec, 'iam', isBoolean),
    accessPoint: check(spec, 'accessPoint', orNull(isAccessPointId)),
    region: check(spec, 'region', orNull(where(isRegionName))),
    zone: check(spec, 'zone', orNull(where(isZoneName))),
    crossAccount: check(spec, 'crossAccount', isBoolean),
    mountTargetIp: check(spec, 'mountTargetIp', orNull(where(isAddressLiteral))),
    networkNamespace: check(spec, 'networkNamespace', orNull(isPath)),
    tlsPort: check(spec, 'tlsPort', orNull(isPort)),
    caFile: check(spec, 'caFile', orNull(isPlainText)),
    noOcsp: check(spec, 'noOcsp', isBoolean),
    awsCredsUri: check(spec, 'awsCredsUri', orNull(isPath)),
    awsProfile: check(spec, 'awsProfile', orNull(isPlainText)),
    roleArn: check(spec, 'roleArn', orNull(isPlainText)),
    jwtPath: check(spec, 'jwtPath', orNull(isPlainText)),
    nfsOptions: checkOptions(spec['nfsOptions']),
  };
  return checked;
}

/**
 * Says in what two mounts of one file system differ, for people. `data`: the directory, the access point or the
 * identity, so that other files or other rights would be seen; `way`: only how the mount target is reached.
 */
export function describeDifferences(there: MountSpec, asked: MountSpec): { data: string[]; way: string[] } {
  const describe = (facts: (spec: MountSpec) => [string, string | number | boolean | null][]) => {
    const wanted = new Map(facts(asked));
    return facts(there)
      .filter(([name, value]) => wanted.get(name) !== value)
      .map(([name, value]) => `${name} is ${inWords(value)} there and ${inWords(wanted.get(name)!)} here`);
  };
  return {
    data: describe((spec) => [
      ['the directory', spec.path],
      ['tls', spec.tls],
      ['iam', spec.iam],
      ['accesspoint', spec.accessPoint],
      ['awsprofile', spec.awsProfile],
      ['awscredsuri', spec.awsCredsUri],
      ['rolearn', spec.roleArn],
      ['jwtpath', spec.jwtPath],
    ]),
    way: describe((spec) => [
      ['region', spec.region],
      ['az', spec.zone],
      ['crossaccount', spec.crossAccount],
      ['mounttargetip', spec.mountTargetIp],
      ['netns', spec.networkNamespace],
      ['tlsport', spec.tlsPort],
      ['cafile', spec.caFile],
    ]),
  };
}

/**
 * Says whether a text is an IPv4 or IPv6 literal, without brackets and without a zone.
 *
 * Source: RFC 4291 section 2.2; dotted decimal without leading zeros.
 */
export function isAddressLiteral(text: string): boolean {
  return isIpv4(text) || isIpv6(text);
}

/** What a command line may hold. */
interface CommandLine {
  flags: string;
  withValue: string;
  usage: string;
}

const mountLine: CommandLine = {
  flags: 'sfnv',
  withValue: 'otN',
  usage: 'mount.efs <file system>[:/path] <directory> [-fnsv] [-o <options>]',
};
const umountLine: CommandLine = {
  flags: 'nlfvr',
  withValue: 'tN',
  usage: 'umount.efs <directory> [-flnrv]',
};

function misused({ usage }: CommandLine, message: string): AgentError {
  return new AgentError('usage', message, { hint: `Usage: ${usage}` });
}

function inQuotes(words: readonly string[]): string {
  return words.length === 0 ? 'nothing' : words.map((word) => JSON.stringify(word)).join(' ');
}

type Words =
  | { kind: 'help' }
  | { kind: 'version' }
  | { kind: 'words'; operands: string[]; flags: Set<string>; values: { letter: string; value: string }[] };

/** Splits arguments the way getopt(3) does: clustered flags, attached or separate values, `--`. */
function splitArgv(argv: readonly string[], known: CommandLine): Words {
  const operands: string[] = [];
  const flags = new Set<string>();
  const values: { letter: string; value: string }[] = [];
  let help = false;
  let version = false;
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i]!;
    if (word === '--') {
      operands.push(...argv.slice(i + 1));
      break;
    }
    if (word === '--help') help = true;
    else if (word === '--version') version = true;
    else if (word.startsWith('--')) throw misused(known, `unknown option ${word}`);
    else if (!word.startsWith('-') || word === '-') operands.push(word);
    else {
      for (let at = 1; at < word.length; at++) {
        const letter = word[at]!;
        if (known.withValue.includes(letter)) {
          const value = at + 1 < word.length ? word.slice(at + 1) : argv[++i];
          if (value === undefined) throw misused(known, `option -${letter} needs a value`);
          values.push({ letter, value });
          break;
        }
        if (letter === 'h') help = true;
        else if (known.flags.includes(letter)) flags.add(letter);
        else throw misused(known, `unknown option -${letter}`);
      }
    }
  }
  if (help) return { kind: 'help' };
  if (version) return { kind: 'version' };
  return { kind: 'words', operands, flags, values };
}

function refuseForeignNamespaceAndType(words: { values: { letter: string; value: string }[] }): void {
  for (const { letter, value } of words.values) {
    if (letter === 'N') {
      // mount(8) leaves entering the namespace to its helper: without that we would mount in the wrong one.
      throw new AgentError('option.unsupported', `The option -N ${value} is not supported`, {
        hint: 'Enter the namespace first: nsenter --mount=<namespace> mount -t efs ...',
      });
    }
    if (letter === 't' && value !== 'efs' && !value.startsWith('efs.')) {
      throw new AgentError('usage', `file system type ${value} is not efs`, {
        hint: 'Leave -t out, or write -t efs.',
      });
    }
  }
}

function parseOption(item: string): MountOption {
  const equals = item.indexOf('=');
  const name = equals < 0 ? item : item.slice(0, equals);
  if (name === '' || /[\s"]/.test(name)) {
    throw new AgentError('option.malformed', `"${item}" is not a mount option`, { option: item });
  }
  return { name, value: equals < 0 ? null : item.slice(equals + 1) };
}

function mergeOptions(lists: readonly MountOption[][]): MountOption[] {
  return [...new Map(lists.flat().map((option) => [option.name, option])).values()];
}

function parseDevice(device: string): { remote: Remote; path: string } {
  const colon = device.indexOf(':');
  const host = colon < 0 ? device : device.slice(0, colon);
  const path = colon < 0 ? '/' : device.slice(colon + 1) || '/';
  const malformed = (why: string, more: Details = {}) =>
    new AgentError('spec.malformed', `${JSON.stringify(device)} ${why}`, { device, ...more });
  if (isAddressLiteral(host) || device.startsWith('[')) {
    throw malformed('is an address, which does not say which file system is meant', {
      hint: 'Write the file system id, and the address as an option: fs-<hex digits>[:/path] with mounttargetip=<address>.',
    });
  }
  if (!isPath(path)) throw malformed('has a path that does not start with / or holds a control character');
  if (isFileSystemId(host)) return { remote: { kind: 'file-system', id: host }, path };
  if (isFileSystemId(host.toLowerCase()))
    throw malformed('is not a file system id: write its letters in lower case');
  if (!isHostName(host)) throw malformed('is neither a file system id nor a DNS name');
  return { remote: { kind: 'name', name: host }, path };
}

function refuseOptions(names: string[]): void {
  if (names.length === 0) return;
  const list = names.map((name) => `"${name}"`).join(', ');
  throw new AgentError('option.unsupported', `Unsupported mount options detected: ${list}`, {
    options: names.join(','),
    hint: names.map((name) => refusedOptions.get(name)).join(' '),
  });
}

/** Checks that flags carry no value and value options one, and returns the reader of the latter. */
function readOwnOptions(given: ReadonlyMap<string, string | null>) {
  for (const [name, shape] of ownOptions) {
    const value = given.get(name);
    if (value === undefined) continue;
    if (shape === 'flag' && value !== null) {
      throw new AgentError(
        'option.malformed',
        `The "${name}" option takes no value, and was given "${value}"`,
        {
          option: name,
          hint: `Write ${name} alone, or leave it out: there is no value that switches it off.`,
        },
      );
    }
    if (shape === 'value' && unquote(value ?? '') === '') {
      throw new AgentError('option.malformed', `The "${name}" option needs a value`, {
        option: name,
        hint: `Write ${name}=<value>, or leave it out.`,
      });
    }
  }
  return <T>(name: string, parse: (text: string) => T): T | null => {
    const value = given.get(name);
    return value === undefined || value === null ? null : parse(unquote(value));
  };
}

function unquote(value: string): string {
  return /^"[^"]*"$/.test(value) ? value.slice(1, -1) : value;
}

function inWords(value: string | number | boolean | null): string {
  if (value === null || value === false) return 'not given';
  return value === true ? 'given' : String(value);
}

function parseAccessPoint(id: string): string {
  if (isAccessPointId(id)) return id;
  throw new AgentError('access-point.malformed', `Access Point ID ${id} is malformed`, { accessPoint: id });
}

function parseRegion(region: string): string {
  if (isRegionName(region)) return region;
  throw new AgentError('region.malformed', `Invalid "region" mount option specified: ${region}`, { region });
}

function parseAddress(text: string): string {
  const address = /^\[.*\]$/.test(text) ? text.slice(1, -1) : text;
  if (isAddressLiteral(address)) return address;
  throw new AgentError('option.malformed', `mounttargetip ${text} is not an IPv4 or IPv6 address`, {
    option: 'mounttargetip',
    hint: 'Write the address of the mount target, such as mounttargetip=10.0.1.23; a name goes in the place of the file system id.',
  });
}

function parseZone(zone: string): string {
  if (isZoneName(zone)) return zone;
  throw new AgentError('option.malformed', `az ${zone} is malformed`, {
    option: 'az',
    hint: 'Write the name of an availability zone, such as us-east-1a.',
  });
}

function parseNetworkNamespace(path: string): string {
  if (isPath(path)) return path;
  throw new AgentError('option.malformed', `netns ${path} is malformed`, {
    option: 'netns',
    hint: 'Write the path of a network namespace, such as /run/netns/blue or /proc/<pid>/ns/net.',
  });
}

function parseRoleArn(arn: string): string {
  if (/^arn:[a-z-]+:iam::[0-9]{12}:role\/\S+$/.test(arn)) return arn;
  throw new AgentError('option.malformed', `rolearn ${arn} is malformed`, {
    option: 'rolearn',
    hint: 'Write rolearn=arn:aws:iam::<account>:role/<name>.',
  });
}

function parseInteger(option: string, text: string): number {
  if (/^-?[0-9]+$/.test(text)) return Number(text);
  throw new AgentError('option.malformed', `${option} option ${text} is not an integer`, {
    option,
    hint: `Write ${option}=<number>.`,
  });
}

function parseTlsPort(text: string): number {
  const port = parseInteger('tlsport', text);
  if (isPort(port)) return port;
  throw new AgentError('option.malformed', `tlsport option ${text} is not between 1 and 65535`, {
    option: 'tlsport',
    hint: 'Leave tlsport out: the agent chooses a free port.',
  });
}

/**
 * Levels 1 and 2 ask for what is always done. Source: stunnel(8), `verify`; a mount target always presents a
 * certificate, so that 1 and 2 are the same.
 */
function checkVerifyLevel(text: string): void {
  const level = parseInteger('verify', text);
  if (level === 1 || level === 2) return;
  throw new AgentError(
    'option.unsupported',
    level === 0
      ? 'verify=0 would accept any server: efs-agent always verifies the mount target'
      : `verify=${text} is not supported: efs-agent verifies the mount target against the roots in cafile`,
    { option: 'verify', hint: 'Leave verify out; name the roots to trust with cafile=<file>.' },
  );
}

function parseCredentialsUri(uri: string): string {
  if (isPath(uri)) return uri;
  throw new AgentError('option.malformed', `awscredsuri ${uri} is malformed`, {
    option: 'awscredsuri',
    hint: 'Write a path that starts with /.',
  });
}

/** Options that mean nothing without TLS, and how the reference words it for those it checks. */
const needTls: readonly [name: string, text: string][] = [
  ['accesspoint', 'via "accesspoint"'],
  ['iam', 'via "iam"'],
  ['tlsport', 'with "tlsport": without it there is no tunnel'],
  ['cafile', 'with "cafile": without it nothing is verified'],
  ['verify', 'with "verify": without it nothing is verified'],
];

function checkRequirements(spec: MountSpec, given: ReadonlyMap<string, unknown>): void {
  const requires = (needed: string, text: string) => {
    throw new AgentError('option.requires', `The "${needed}" option is required when mounting ${text}`, {
      option: needed,
    });
  };
  if (!spec.tls) for (const [name, text] of needTls) if (given.has(name)) requires('tls', text);
  if (!spec.iam) {
    if (spec.awsProfile !== null) requires('iam', 'with named profile option, "awsprofile"');
    if (spec.awsCredsUri !== null) requires('iam', 'with "awscredsuri"');
    if (spec.roleArn !== null) requires('iam', 'with "rolearn"');
    if (spec.jwtPath !== null) requires('iam', 'with "jwtpath"');
  }
  if (spec.roleArn === null && spec.jwtPath !== null) requires('rolearn', 'with "jwtpath"');
  if (spec.jwtPath === null && spec.roleArn !== null) requires('jwtpath', 'with "rolearn"');
  if (spec.crossAccount && spec.mountTargetIp !== null) {
    throw new AgentError(
      'option.conflict',
      'The "mounttargetip" and "crossaccount" options are incompatible: one gives the address, the other the name',
      { options: 'mounttargetip,crossaccount' },
    );
  }
}

type Guard<T> = (value: unknown) => value is T;

const isBoolean = (value: unknown): value is boolean => typeof value === 'boolean';
const isPlainText = (value: unknown): value is string =>
  typeof value === 'string' && value !== '' && !/\p{Cc}/u.test(value);
const isPath = (value: unknown): value is string => isPlainText(value) && value.startsWith('/');
const isAccessPointId = (value: unknown): value is string =>
  typeof value === 'string' && /^fsap-[0-9a-f]{17}$/.test(value);
const isPort = (value: unknown): value is number =>
  typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= 65535;

function where(test: (text: string) => boolean): Guard<string> {
  return (value): value is string => typeof value === 'string' && test(value);
}

function orNull<T>(guard: Guard<T>): Guard<T | null> {
  return (value): value is T | null => value === null || guard(value);
}

function check<T>(record: Record<string, unknown>, field: string, guard: Guard<T>): T {
  const value = Object.hasOwn(record, field) ? record[field] : undefined;
  if (guard(value)) return value;
  throw new AgentError('agent.protocol', `the field "${field}" is missing or malformed`, { field });
}

function asRecord(value: unknown, what: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value))
    return value as Record<string, unknown>;
  throw new AgentError('agent.protocol', `the ${what} is not an object`);
}

function checkRemote(value: unknown): Remote {
  const remote = asRecord(value, 'remote of a mount spec');
  return remote['kind'] === 'file-system'
    ? { kind: 'file-system', id: check(remote, 'id', where(isFileSystemId)) }
    : {
        kind: check(remote, 'kind', (kind): kind is 'name' => kind === 'name'),
        name: check(remote, 'name', where(isHostName)),
      };
}

/** Options are well formed exactly if writing them and reading them back changes nothing. */
function checkOptions(value: unknown): MountOption[] {
  const malformed = (cause?: unknown) =>
    new AgentError(
      'agent.protocol',
      'the field "nfsOptions" is missing or malformed',
      { field: 'nfsOptions' },
      cause,
    );
  if (!Array.isArray(value)) throw malformed();
  const options = value.map((item): MountOption => {
    const option = asRecord(item, 'mount option');
    return {
      name: check(option, 'name', isPlainText),
      value: check(
        option,
        'value',
        orNull((text): text is string => typeof text === 'string'),
      ),
    };
  });
  let again: MountOption[];
  try {
    again = parseOptions(formatOptions(options));
  } catch (error) {
    throw malformed(error);
  }
  const same =
    again.length === options.length &&
    again.every((o, i) => o.name === options[i]!.name && o.value === options[i]!.value);
  if (!same) throw malformed();
  return options;
}

function isIpv4(text: string): boolean {
  const octets = text.split('.');
  return (
    octets.length === 4 &&
    octets.every((octet) => /^(?:0|[1-9][0-9]{0,2})$/.test(octet) && Number(octet) <= 255)
  );
}

function isIpv6(text: string): boolean {
  const halves = text.split('::');
  if (halves.length > 2) return false;
  const groups = halves.map((half) => (half === '' ? [] : half.split(':')));
  const last = groups.at(-1)!;
  let length = groups.flat().length;
  if (last.length > 0 && last.at(-1)!.includes('.')) {
    if (!isIpv4(last.pop()!)) return false;
    length += 1;
  }
  if (!groups.flat().every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return false;
  return halves.length === 2 ? length <= 7 : length === 8;
}
