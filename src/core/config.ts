import { isHostName, isRegionName, isZoneName } from './endpoint.ts';
import { AgentError } from './errors.ts';
import { findIniValue, type Ini, type IniValue, mergeInis, parseIni } from './ini.ts';
import type { LocalUsers } from './local-peer.ts';
import { isAddressLiteral } from './mount-spec.ts';
import type { LogLevel } from './ports.ts';

/** Where a value comes from. */
export type Origin =
  | { readonly kind: 'default' }
  | { readonly kind: 'file'; readonly path: string; readonly line: number };

/** A value with its origin. */
export interface Located {
  readonly value: string;
  readonly origin: Origin;
}

/** One key of the configuration file. */
export interface Setting<T> {
  section: string;
  key: string;
  /** As it would stand in a file; null = absent. */
  shipped: string | null;
  /** `ours`; `reference` = the reference's, obeyed here too; `no-effect` = the reference's, accepted and unused. */
  status: 'ours' | 'reference' | 'no-effect';
  /** Unit in the file, if it has one. */
  unit: 's' | null;
  help: string;
  parse: (text: string, place: Place) => T;
}

/** What a parser of one value may say about it; both name the key and its place in the file. */
interface Place {
  invalid(why: string): AgentError;
  warn(why: string): void;
}

/** Every key whose value efs-agent uses, by the name it has in `Config`. */
export const settings = {
  logLevel: reference('DEFAULT', 'logging_level', 'INFO', parseLogLevel, 'how much is logged'),
  dnsNameFormat: reference(
    'mount',
    'dns_name_format',
    '{az}.{fs_id}.efs.{region}.{dns_name_suffix}',
    parseLine,
    'template of the DNS name of a file system',
  ),
  dnsNameSuffix: reference(
    'mount',
    'dns_name_suffix',
    'amazonaws.com',
    parseSuffix,
    'suffix of AWS host names',
  ),
  region: reference('mount', 'region', null, parseRegion, 'region of the file systems'),
  caFile: reference(
    'mount',
    'stunnel_cafile',
    '/etc/amazon/efs/efs-utils.crt',
    parseLine,
    'roots a mount target may have',
  ),
  zoneId: reference(
    'mount',
    'az_id',
    null,
    parseZoneId,
    'zone id for crossaccount, where the instance metadata service cannot tell it',
  ),
  checkOcsp: reference(
    'mount',
    'stunnel_check_cert_validity',
    'false',
    parseOcsp,
    'check the server certificate with OCSP: not possible, see migration.md',
  ),
  fipsMode: reference('mount', 'fips_mode_enabled', 'false', parseBoolean, 'use FIPS endpoints and ciphers'),
  portRangeLower: reference(
    'mount',
    'port_range_lower_bound',
    '20049',
    upTo(65_535),
    'first local port for tunnels',
  ),
  portRangeUpper: reference(
    'mount',
    'port_range_upper_bound',
    '21049',
    upTo(65_536),
    'end of those ports, itself not used',
  ),
  optimizeReadAhead: reference(
    'mount',
    'optimize_readahead',
    'true',
    parseBoolean,
    'set the read-ahead to 15 reads',
  ),
  fallBackToMountTargetIp: reference(
    'mount',
    'fall_back_to_mount_target_ip_address_enabled',
    'true',
    parseBoolean,
    'ask the EFS API for an address when DNS has none',
  ),
  retryNfsMount: reference(
    'mount',
    'retry_nfs_mount_command',
    'true',
    parseBoolean,
    'repeat mount.nfs4 when it fails',
  ),
  retryNfsMountCount: reference('mount', 'retry_nfs_mount_command_count', '3', countOr(3), 'attempts in all'),
  retryNfsMountTimeoutMs: inSeconds(
    reference(
      'mount',
      'retry_nfs_mount_command_timeout_sec',
      '15',
      countOr(15),
      'time limit of all attempts but the last',
    ),
  ),
  clientSource: reference(
    'client-info',
    'source',
    null,
    parseClientSource,
    'reported in the client certificate',
  ),
  cloudWatchEnabled: reference(
    'cloudwatch-log',
    'enabled',
    'false',
    parseSwitch,
    'tell CloudWatch Logs how mounts ended',
  ),
  logGroup: reference(
    'cloudwatch-log',
    'log_group_name',
    '/aws/efs/utils',
    parseLogGroup,
    'log group; may contain {fs_id}',
  ),
  logRetentionDays: reference(
    'cloudwatch-log',
    'retention_in_days',
    null,
    countOr(14),
    'how long CloudWatch Logs keeps them; absent = for ever',
  ),
  metadataEndpoint: ours('metadata_endpoint', null, parseUrl, 'base URL of the instance metadata service'),
  mountTargetPort: ours('mount_target_port', '2049', upTo(65_535), 'port of the mount targets'),
  workerUser: ours('worker_user', 'efs-agent', parseUserName, 'user the tunnel workers run as'),
  localUsers: ours(
    'allow_local_users',
    'root',
    parseLocalUsers,
    'users besides root whose programs may use tunnels; any = everybody',
  ),
  dialTimeoutMs: inSeconds(
    ours('dial_timeout_sec', '10', upTo(3_600), 'time limit for TCP and TLS to a mount target'),
  ),
  stallTimeoutMs: inSeconds(
    ours('stall_timeout_sec', '20', upTo(3_600), 'how long a mount target that owes an answer may be silent'),
  ),
  renewalMs: inSeconds(
    ours('renewal_sec', '3600', upTo(3_600), 'how long a client certificate is used before it is replaced'),
  ),
  maxConnections: ours(
    'max_connections',
    '5',
    upTo(64),
    'most TLS connections for one mount; 1 = always one',
  ),
  statusGroup: ours(
    'status_group',
    null,
    parseUserName,
    'group that may ask for the status, besides root; absent = none',
  ),
  metricsSocket: ours(
    'metrics_socket',
    'true',
    parseBoolean,
    'serve metrics on metrics.sock in the runtime directory',
  ),
  metricsGroup: ours('metrics_group', null, parseUserName, 'group that may read that socket, besides root'),
  metricsListen: ours(
    'metrics_listen',
    null,
    parseListen,
    'serve metrics on <port> of 127.0.0.1 too, or on <address>:<port>',
  ),
  idleExitMs: inSeconds(ours('idle_exit_sec', '60', upTo(86_400), 'how long an agent without mounts stays')),
};

/**
 * Keys of the reference that have no effect: accepted, so that its file is accepted, and warned about when they
 * say something else than the shipped file.
 */
export const settingsWithoutEffect: readonly Setting<string>[] = [
  noEffect('DEFAULT', 'logging_max_bytes', '1048576', 'the journal keeps the log'),
  noEffect('DEFAULT', 'logging_file_count', '10', 'the journal keeps the log'),
  noEffect('DEFAULT', 'state_file_dir_mode', '750', 'the state directory is for root only'),
  noEffect(
    'mount',
    'disable_fetch_ec2_metadata_token',
    'false',
    'the metadata service is asked with a session token only (IMDSv2)',
  ),
  noEffect('mount', 'stunnel_debug_enabled', 'false', 'the tunnel logs as logging_level says'),
  noEffect('mount', 'stunnel_logs_file', null, 'the tunnel logs to the journal'),
  noEffect('mount', 'stunnel_check_cert_hostname', 'true', "the mount target's name is always checked"),
  noEffect('mount-watchdog', 'enabled', 'true', 'the agent always watches its mounts'),
  noEffect('mount-watchdog', 'poll_interval_sec', '1', 'the agent watches events'),
  noEffect('mount-watchdog', 'unmount_count_for_consistency', '5', 'the agent watches events'),
  noEffect('mount-watchdog', 'unmount_grace_period_sec', '30', 'the agent watches events'),
  noEffect(
    'mount-watchdog',
    'tls_cert_renewal_interval_min',
    '60',
    'certificates are replaced in time by themselves',
  ),
  noEffect('mount-watchdog', 'stunnel_health_check_enabled', 'true', 'tunnels are always watched'),
  noEffect('mount-watchdog', 'stunnel_health_check_interval_min', '5', 'tunnels are always watched'),
  noEffect('mount-watchdog', 'stunnel_health_check_command_timeout_sec', '30', 'no command is run'),
  ...[
    'proxy_logging_level',
    'proxy_logging_max_bytes',
    'proxy_logging_file_count',
    'metrics_enabled',
    'read_bypass_denylist_size',
    'read_bypass_denylist_ttl_seconds',
    's3_read_chunk_size_bytes',
    'readahead_cache_enabled',
    'readahead_cache_init_memory_size_mb',
    'readahead_cache_max_memory_size_mb',
    'readahead_init_window_size_bytes',
    'readahead_max_window_size_bytes',
    'readahead_cache_eviction_interval_ms',
    'readahead_cache_target_utilization_percent',
    'read_bypass_max_in_flight_s3_bytes',
  ].map((key) => noEffect('proxy', key, null, 'there is no efs-proxy')),
];

/** What a section `[mount.<region>]` says. */
export interface RegionSettings {
  readonly dnsNameSuffix: Located | null;
  readonly caFile: Located | null;
}

/** The configuration: one value for each of `settings`, and where it comes from. Frozen. */
export type Config = { readonly [K in keyof typeof settings]: ReturnType<(typeof settings)[K]['parse']> } & {
  readonly origins: Readonly<Record<keyof typeof settings, Origin>>;
  readonly regions: Readonly<Record<string, RegionSettings>>;
  /** What the administrator should know, one sentence each, with file and line. */
  readonly warnings: readonly string[];
};

/**
 * Reads the configuration: each file over the ones before it, all over the shipped defaults.
 *
 * Errors: `config.malformed` for a text that is no configuration file; `config.invalid` for a value that is
 * not allowed and for an unknown key in `[agent]`; unknown keys elsewhere are warnings. Source: specification 2.
 */
export function parseConfig(files: readonly { path: string; text: string }[]): Config {
  const ini = mergeInis(files.map(({ path, text }) => parseIni(text, path)));
  const warnings: string[] = [];
  const values: Record<string, unknown> = {};
  const origins: Record<string, Origin> = {};
  for (const [name, setting] of Object.entries(settings)) {
    const found = findIniValue(ini, setting.section, setting.key);
    values[name] = parseValue(setting, found, warnings);
    origins[name] = originOf(found);
  }
  const regions = parseRegions(ini, warnings);
  checkKeys(ini, warnings);
  const config = {
    ...values,
    origins: Object.freeze(origins),
    regions: Object.freeze(regions),
    warnings: Object.freeze(warnings),
  } as unknown as Config;
  checkPortRange(config);
  return Object.freeze(config);
}

/** The suffix of AWS host names in a region: its own section's, else that of `[mount]`. */
export function configuredSuffix(config: Config, region: string): Located {
  return (
    regionOf(config, region)?.dnsNameSuffix ?? {
      value: config.dnsNameSuffix,
      origin: config.origins.dnsNameSuffix,
    }
  );
}

/**
 * The file with the roots that may sign a mount target in a region: its own section's, else that of `[mount]`.
 *
 * Source: our choice: the reference ignores `[mount]` when the region has a section without the key.
 */
export function configuredCaFile(config: Config, region: string): Located {
  return regionOf(config, region)?.caFile ?? { value: config.caFile, origin: config.origins.caFile };
}

/** One key with the value it has, as it would stand in a file, for `efs-agent config`. */
export interface EffectiveSetting {
  section: string;
  key: string;
  /** Null when there is none. */
  value: string | null;
  origin: Origin;
  status: Setting<unknown>['status'];
  help: string;
}

/**
 * Every key that efs-agent knows, in the order of the sections, with the value that holds and where it comes from;
 * keys without effect only where a file has them.
 *
 * Errors: those of `parseConfig`.
 */
export function listEffectiveSettings(files: readonly { path: string; text: string }[]): EffectiveSetting[] {
  const ini = mergeInis(files.map(({ path, text }) => parseIni(text, path)));
  const config = parseConfig(files);
  const used = Object.values<Setting<unknown>>(settings).map((setting) => describe(ini, setting));
  const unused = settingsWithoutEffect
    .map((setting) => describe(ini, setting))
    .filter(({ origin }) => origin.kind === 'file');
  const regional = Object.entries(config.regions).flatMap(([region, { dnsNameSuffix, caFile }]) => [
    ...describeRegional(region, settings.dnsNameSuffix, dnsNameSuffix),
    ...describeRegional(region, settings.caFile, caFile),
  ]);
  return [...used, ...regional, ...unused];
}

function describe(ini: Ini, setting: Setting<unknown>): EffectiveSetting {
  const { section, key, status, help, shipped } = setting;
  const found = findIniValue(ini, section, key);
  return {
    section,
    key,
    value: found === null ? shipped : found.text,
    origin: originOf(found),
    status,
    help,
  };
}

function describeRegional(
  region: string,
  { key, help }: Setting<unknown>,
  located: Located | null,
): EffectiveSetting[] {
  if (located === null) return [];
  const { value, origin } = located;
  return [{ section: `${regionPrefix}${region}`, key, value, origin, status: 'reference', help }];
}

const systemRoots = '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem';

/** The region sections of the shipped file. A section of the same name in a file replaces the whole entry. */
const shippedRegions: readonly [region: string, suffix: string, caFile: string | null][] = [
  ['cn-north-1', 'amazonaws.com.cn', null],
  ['cn-northwest-1', 'amazonaws.com.cn', null],
  ['eu-isoe-west-1', 'cloud.adc-e.uk', systemRoots],
  ['eusc-de-east-1', 'amazonaws.eu', systemRoots],
  ['us-iso-east-1', 'c2s.ic.gov', systemRoots],
  ['us-iso-west-1', 'c2s.ic.gov', systemRoots],
  ['us-isob-east-1', 'sc2s.sgov.gov', systemRoots],
  ['us-isob-west-1', 'sc2s.sgov.gov', systemRoots],
  ['us-isof-east-1', 'csp.hci.ic.gov', systemRoots],
  ['us-isof-south-1', 'csp.hci.ic.gov', systemRoots],
];

const regionPrefix = 'mount.';

function regionOf(config: Config, region: string): RegionSettings | undefined {
  return Object.hasOwn(config.regions, region) ? config.regions[region] : undefined;
}

function parseRegions(ini: Ini, warnings: string[]): Record<string, RegionSettings> {
  const shipped = (value: string | null): Located | null =>
    value === null ? null : { value, origin: { kind: 'default' } };
  const regions = new Map<string, RegionSettings>(
    shippedRegions.map(([name, suffix, caFile]) => [
      name,
      { dnsNameSuffix: shipped(suffix), caFile: shipped(caFile) },
    ]),
  );
  for (const section of ini.keys()) {
    if (!section.startsWith(regionPrefix)) continue;
    const name = section.slice(regionPrefix.length);
    if (!isRegionName(name)) continue;
    const read = ({ key, parse }: Setting<string>): Located | null => {
      const found = findIniValue(ini, section, key);
      return found === null
        ? null
        : { value: parse(found.text, placeOf(section, key, found, warnings)), origin: originOf(found) };
    };
    regions.set(name, { dnsNameSuffix: read(settings.dnsNameSuffix), caFile: read(settings.caFile) });
  }
  return Object.fromEntries(regions);
}

function parseValue(setting: Setting<unknown>, found: IniValue | null, warnings: string[]): unknown {
  const text = found?.text ?? setting.shipped;
  return text === null ? null : setting.parse(text, placeOf(setting.section, setting.key, found, warnings));
}

function placeOf(section: string, key: string, found: IniValue | null, warnings: string[]): Place {
  const where = `${showOrigin(originOf(found))}: [${section}] ${key}`;
  return {
    invalid: (why) => new AgentError('config.invalid', `${where} ${why}`, { section, key }),
    warn: (why) => void warnings.push(`${where} ${why}`),
  };
}

function showOrigin(origin: Origin): string {
  return origin.kind === 'default' ? 'default' : `${origin.path}:${origin.line}`;
}

function originOf(found: IniValue | null): Origin {
  return found === null ? { kind: 'default' } : { kind: 'file', path: found.path, line: found.line };
}

function checkPortRange(config: Config): void {
  const { portRangeLower: lower, portRangeUpper: upper, origins } = config;
  if (lower < upper) return;
  const [lowerPlace, upperPlace] = [origins.portRangeLower, origins.portRangeUpper].map(showOrigin);
  throw new AgentError(
    'config.invalid',
    `${lowerPlace}: [mount] port_range_lower_bound ${lower} must be less than port_range_upper_bound ${upper} (${upperPlace})`,
    { section: 'mount', key: 'port_range_lower_bound' },
  );
}

/** Says which keys that stand in the files have no effect. */
function checkKeys(ini: Ini, warnings: string[]): void {
  const effective = Object.values<Setting<unknown>>(settings);
  const known = new Set(effective.map(nameOf));
  const withoutEffect = new Map(settingsWithoutEffect.map((setting) => [nameOf(setting), setting]));
  const keys = new Set([...known, ...withoutEffect.keys()].map((name) => name.slice(name.indexOf(' ') + 1)));
  for (const [section, entries] of ini) {
    for (const [key, { raw, path, line }] of entries) {
      const place = placeOf(section, key, { text: raw, path, line }, warnings);
      const unused = withoutEffect.get(nameOf({ section, key }));
      if (unused !== undefined) {
        if (raw.toLowerCase() !== unused.shipped?.toLowerCase()) place.warn(`has no effect: ${unused.help}`);
      } else if (
        section === 'DEFAULT'
          ? !keys.has(key)
          : !isRegional(section, key) && !known.has(nameOf({ section, key }))
      ) {
        if (section === 'agent') throw place.invalid('is not a key of efs-agent');
        place.warn('is not known and has no effect');
      }
    }
  }
}

function nameOf({ section, key }: { section: string; key: string }): string {
  return `${section} ${key}`;
}

function isRegional(section: string, key: string): boolean {
  return (
    section.startsWith(regionPrefix) &&
    isRegionName(section.slice(regionPrefix.length)) &&
    (key === settings.dnsNameSuffix.key || key === settings.caFile.key)
  );
}

function reference<T, S extends string | null>(
  section: string,
  key: string,
  shipped: S,
  parse: Setting<T>['parse'],
  help: string,
): Setting<S extends null ? T | null : T> {
  return { section, key, shipped, status: 'reference', unit: null, help, parse } as Setting<
    S extends null ? T | null : T
  >;
}

function ours<T, S extends string | null>(key: string, shipped: S, parse: Setting<T>['parse'], help: string) {
  return { ...reference('agent', key, shipped, parse, help), status: 'ours' as const };
}

function noEffect(section: string, key: string, shipped: string | null, help: string): Setting<string> {
  return { section, key, shipped, status: 'no-effect', unit: null, help, parse: (text) => text };
}

function inSeconds(setting: Setting<number>): Setting<number> {
  return { ...setting, unit: 's', parse: (text, place) => setting.parse(text, place) * 1_000 };
}

function parseLine(text: string, place: Place): string {
  if (text === '' || /\p{Cc}/u.test(text)) throw place.invalid('must be one line of text');
  return text;
}

function parseSuffix(text: string, place: Place): string {
  if (!isHostName(text)) throw place.invalid(`"${text}" is not a DNS name`);
  return text;
}

function parseRegion(text: string, place: Place): string {
  if (!isRegionName(text)) throw place.invalid(`"${text}" is not a region name`);
  return text;
}

function parseOcsp(text: string, place: Place): boolean {
  const wanted = parseBoolean(text, place);
  if (wanted)
    place.warn('is true: no OCSP check is made, so every mount with tls is refused unless it has noocsp');
  return wanted;
}

function parseZoneId(text: string, place: Place): string {
  if (!isZoneName(text)) throw place.invalid(`"${text}" is not the id of an availability zone`);
  return text;
}

function parseBoolean(text: string, place: Place): boolean {
  const word = text.toLowerCase();
  if (['1', 'yes', 'true', 'on'].includes(word)) return true;
  if (['0', 'no', 'false', 'off'].includes(word)) return false;
  throw place.invalid(`must be true or false, not "${text}"`);
}

/** A boolean that must never stop a mount. */
function parseSwitch(text: string, place: Place): boolean {
  if (/^(?:1|yes|true|on|0|no|false|off)$/i.test(text)) return parseBoolean(text, place);
  place.warn(`must be true or false, not "${text}": false is used`);
  return false;
}

function parseLogGroup(text: string, place: Place): string {
  const ids = text.replaceAll('{fs_id}', '');
  if (text.length <= 512 && /^[A-Za-z0-9._/#-]*$/.test(ids) && text !== '') return text;
  place.warn(`"${text}" is not the name of a log group: /aws/efs/utils is used`);
  return '/aws/efs/utils';
}

/** A whole number from 1 to `most`. */
function upTo(most: number): Setting<number>['parse'] {
  return (text, place) => {
    const number = /^[0-9]{1,9}$/.test(text) ? Number(text) : 0;
    if (number < 1 || number > most)
      throw place.invalid(`must be a whole number from 1 to ${most}, not "${text}"`);
    return number;
  };
}

/** A whole number from 1; anything else counts as `otherwise`, as in the reference. */
function countOr(otherwise: number): Setting<number>['parse'] {
  return (text, place) => {
    const number = /^[0-9]{1,6}$/.test(text) ? Number(text) : 0;
    if (number >= 1) return number;
    place.warn(`must be a whole number from 1, not "${text}": ${otherwise} is used`);
    return otherwise;
  };
}

function parseLogLevel(text: string, place: Place): LogLevel {
  const level = new Map<string, LogLevel>([
    ['debug', 'debug'],
    ['info', 'info'],
    ['warning', 'warn'],
    ['error', 'error'],
    ['critical', 'error'],
  ]).get(text.toLowerCase());
  if (level !== undefined) return level;
  place.warn(`"${text}" is not a log level: INFO is used`);
  return 'info';
}

function parseClientSource(text: string, place: Place): string | null {
  if (text.length >= 1 && text.length <= 100) return parseLine(text, place);
  place.warn('must have 1 to 100 characters: it is not used');
  return null;
}

function parseUrl(text: string, place: Place): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || !/^https?:$/.test(url.protocol) || url.username !== '' || url.password !== '') {
    throw place.invalid(`"${text}" is not an http URL`);
  }
  return text;
}

/** `any`, or names and numbers of users separated by commas. */
function parseLocalUsers(text: string, place: Place): LocalUsers {
  if (text === 'any') return { kind: 'any' };
  const names = text.split(',').map((name) => name.trim());
  for (const name of names) if (!/^\d{1,10}$/.test(name)) parseUserName(name, place);
  return { kind: 'listed', names };
}

/** `<port>` of 127.0.0.1, `<address>:<port>`, or `[<IPv6 address>]:<port>`. */
function parseListen(text: string, place: Place): { host: string; port: number } {
  const [, bracketed, plain, digits] = /^(?:\[(.*)\]:|([^:]*):)?([0-9]{1,5})$/.exec(text) ?? [];
  const host = bracketed ?? plain ?? '127.0.0.1';
  const port = Number(digits);
  if (digits === undefined || port < 1 || port > 65_535 || !isAddressLiteral(host))
    throw place.invalid(`must be a port, or an address and a port, not "${text}"`);
  return { host, port };
}

function parseUserName(text: string, place: Place): string {
  if (!/^[a-z_][a-z0-9_-]{0,31}$/i.test(text)) throw place.invalid(`"${text}" is not a user name`);
  return text;
}
