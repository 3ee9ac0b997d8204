import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { expect, expectTypeOf, test } from 'vitest';
import {
  type Config,
  configuredCaFile,
  configuredSuffix,
  listEffectiveSettings,
  parseConfig,
  settings,
  settingsWithoutEffect,
} from '../../src/core/config.ts';
import { AgentError } from '../../src/core/errors.ts';

const path = '/etc/amazon/efs/efs-utils.conf';
const shipped = readFileSync(new URL('../../systemd/efs-utils.conf', import.meta.url), 'utf8');

function configOf(...texts: string[]): Config {
  return parseConfig(texts.map((text, index) => ({ path: index === 0 ? path : `${path}.${index}`, text })));
}

const invalid = expect.objectContaining({ code: 'config.invalid' });

test('without a file every value is the shipped default', () => {
  expect(parseConfig([])).toMatchObject({
    logLevel: 'info',
    dnsNameFormat: '{az}.{fs_id}.efs.{region}.{dns_name_suffix}',
    dnsNameSuffix: 'amazonaws.com',
    region: null,
    caFile: '/etc/amazon/efs/efs-utils.crt',
    zoneId: null,
    checkOcsp: false,
    fipsMode: false,
    portRangeLower: 20_049,
    portRangeUpper: 21_049,
    optimizeReadAhead: true,
    fallBackToMountTargetIp: true,
    retryNfsMount: true,
    retryNfsMountCount: 3,
    retryNfsMountTimeoutMs: 15_000,
    clientSource: null,
    metadataEndpoint: null,
    mountTargetPort: 2_049,
    workerUser: 'efs-agent',
    dialTimeoutMs: 10_000,
    stallTimeoutMs: 20_000,
    renewalMs: 3_600_000,
    maxConnections: 5,
    idleExitMs: 60_000,
    warnings: [],
  });
});

test('values have the types their keys promise', () => {
  expectTypeOf<Config['region']>().toEqualTypeOf<string | null>();
  expectTypeOf<Config['dialTimeoutMs']>().toEqualTypeOf<number>();
  expectTypeOf<Config['fipsMode']>().toEqualTypeOf<boolean>();
  expectTypeOf<Config['metadataEndpoint']>().toEqualTypeOf<string | null>();
  expectTypeOf<Config['workerUser']>().toEqualTypeOf<string>();
});

test('the file we ship says exactly the defaults, without a warning', () => {
  const { origins: _, regions, ...values } = configOf(shipped);
  const { origins: __, regions: defaultRegions, ...defaults } = parseConfig([]);

  // The one key whose absence means something of its own: events are kept for ever.
  expect(values).toEqual({ ...defaults, logRetentionDays: 14 });
  const plain = (some: Config['regions']) =>
    Object.entries(some).map(([name, { dnsNameSuffix, caFile }]) => [
      name,
      dnsNameSuffix?.value,
      caFile?.value,
    ]);
  expect(plain(regions).sort()).toEqual(plain(defaultRegions).sort());
});

test('the file we ship shows every key that has an effect, set or commented out', () => {
  for (const { section, key } of Object.values(settings)) {
    expect(shipped).toMatch(new RegExp(`^#?\\[${section}\\]$`, 'm'));
    expect(shipped).toMatch(new RegExp(`^#?${key} = `, 'm'));
  }
});

test('the commented keys of our own section stand there with their defaults', () => {
  const uncommented = shipped.replace(
    /^#(?=(?:mount_target_port|worker_user|dial_timeout_sec|stall_timeout_sec|max_connections|idle_exit_sec) = )/gm,
    '',
  );

  const { origins, ...config } = configOf(uncommented);

  expect(config).toMatchObject({
    mountTargetPort: 2_049,
    workerUser: 'efs-agent',
    dialTimeoutMs: 10_000,
    idleExitMs: 60_000,
  });
  expect(origins.idleExitMs.kind).toBe('file');
});

test('each value knows the file and line it comes from', () => {
  const config = configOf('[mount]\n\nregion = eu-west-1\n', '[mount]\nport_range_lower_bound = 20100\n');

  expect(config.origins.region).toEqual({ kind: 'file', path, line: 3 });
  expect(config.origins.portRangeLower).toEqual({ kind: 'file', path: `${path}.1`, line: 2 });
  expect(config.origins.portRangeUpper).toEqual({ kind: 'default' });
});

test('the configuration cannot be changed after it is read', () => {
  const config = parseConfig([]);

  for (const part of [config, config.origins, config.regions, config.warnings])
    expect(Object.isFrozen(part)).toBe(true);
});

test('the suffix is that of the region section, then that of the mount section', () => {
  const config = configOf(
    '[mount]\ndns_name_suffix = m.example\n[mount.us-east-1]\ndns_name_suffix = r.example\n[mount.us-east-2]\n',
  );

  expect(configuredSuffix(config, 'us-east-1').value).toBe('r.example');
  expect(configuredSuffix(config, 'us-east-2').value).toBe('m.example');
  expect(configuredSuffix(config, 'eu-west-1').value).toBe('m.example');
  expect(configuredSuffix(config, 'cn-north-1')).toEqual({
    value: 'amazonaws.com.cn',
    origin: { kind: 'default' },
  });
  expect(configuredSuffix(config, 'constructor').value).toBe('m.example');
});

test('a region section without a CA file falls back to the one of the mount section', () => {
  const config = configOf(
    '[mount]\nstunnel_cafile = /my.pem\n[mount.us-iso-east-1]\ndns_name_suffix = c2s.ic.gov\n',
  );

  expect(configuredCaFile(config, 'us-iso-east-1')).toEqual({
    value: '/my.pem',
    origin: { kind: 'file', path, line: 2 },
  });
  expect(configuredCaFile(config, 'us-iso-west-1').value).toBe(
    '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
  );
});

test.each([
  ['1', true],
  ['YES', true],
  ['On', true],
  ['0', false],
  ['no', false],
  ['OFF', false],
])('the boolean %s is %s', (text, value) => {
  expect(configOf(`[mount]\nfips_mode_enabled = ${text}`).fipsMode).toBe(value);
});

test.each([
  '[mount]\nfips_mode_enabled = maybe',
  '[mount]\nregion = US',
  '[mount]\nregion = ../x',
  '[mount]\nregion =',
  '[mount]\ndns_name_suffix = a b',
  '[mount]\nport_range_lower_bound = x',
  '[mount]\nport_range_lower_bound = 0',
  '[mount]\nport_range_lower_bound = 21049',
  '[mount]\nport_range_upper_bound = 65537',
  '[mount]\nstunnel_cafile =\n  /a\n  /b',
  '[mount]\nstunnel_check_cert_validity = maybe',
  '[mount]\naz_id = Use1',
  '[mount.us-east-1]\ndns_name_suffix = a b',
  '[agent]\ndial_timeout_sec = 0',
  '[agent]\nmetadata_endpoint = file:///x',
  '[agent]\nmetadata_endpoint = http://u:p@host/',
  '[agent]\nworker_user = a b',
])('the file %j is refused, and the error names file, line and key', (text) => {
  expect(() => configOf(text)).toThrow(invalid);
  expect(() => configOf(text)).toThrow(new RegExp(`^${path}:[23]: \\[.*\\] [a-z_]+ `));
});

test('bounds of the port range that contradict each other are told with the place of both', () => {
  expect(() => configOf('[mount]\nport_range_upper_bound = 20049')).toThrow(
    `default: [mount] port_range_lower_bound 20049 must be less than port_range_upper_bound 20049 (${path}:2)`,
  );
});

test('an unknown key is an error in our own section and a warning elsewhere', () => {
  expect(() => configOf('[agent]\nidle_exit = 5')).toThrow(invalid);
  for (const text of [
    '[mount]\nnew_key = 5%',
    '[other]\nregion = x',
    '[mount.us-east-1]\nregion = x',
    '[mount.X]\nstunnel_cafile = /x',
  ]) {
    expect(configOf(text).warnings).toEqual([
      expect.stringMatching(new RegExp(`^${path}:2: .* is not known`)),
    ]);
  }
});

test('a number of attempts that is none counts as the default, with a warning', () => {
  for (const text of ['0', '-1', 'x', '']) {
    const config = configOf(
      `[mount]\nretry_nfs_mount_command_count = ${text}\nretry_nfs_mount_command_timeout_sec = ${text}`,
    );

    expect(config).toMatchObject({ retryNfsMountCount: 3, retryNfsMountTimeoutMs: 15_000 });
    expect(config.warnings).toHaveLength(2);
  }
});

/** Every key of the reference's specification: what a value does here; null = nothing, and that is said. */
const referenceKeys: readonly [
  section: string,
  key: string,
  value: string,
  effect: Partial<Config> | null,
][] = [
  ['DEFAULT', 'logging_level', 'WARNING', { logLevel: 'warn' }],
  ['DEFAULT', 'logging_max_bytes', '2097152', null],
  ['DEFAULT', 'logging_file_count', '3', null],
  ['DEFAULT', 'state_file_dir_mode', '755', null],
  ['mount', 'dns_name_format', '{fs_id}.example.com', { dnsNameFormat: '{fs_id}.example.com' }],
  ['mount', 'dns_name_suffix', 'example.com', { dnsNameSuffix: 'example.com' }],
  ['mount', 'region', 'eu-west-1', { region: 'eu-west-1' }],
  ['mount', 'az_id', 'use1-az4', { zoneId: 'use1-az4' }],
  ['mount', 'stunnel_debug_enabled', 'true', null],
  ['mount', 'stunnel_logs_file', '/var/log/amazon/efs/{fs_id}.stunnel.log', null],
  ['mount', 'stunnel_cafile', '/etc/ssl/ca.pem', { caFile: '/etc/ssl/ca.pem' }],
  ['mount', 'stunnel_check_cert_hostname', 'no', null],
  ['mount', 'stunnel_check_cert_validity', 'On', { checkOcsp: true }],
  ['mount', 'fips_mode_enabled', 'YES', { fipsMode: true }],
  ['mount', 'port_range_lower_bound', '20100', { portRangeLower: 20_100 }],
  ['mount', 'port_range_upper_bound', '20449', { portRangeUpper: 20_449 }],
  ['mount', 'optimize_readahead', '0', { optimizeReadAhead: false }],
  ['mount', 'fall_back_to_mount_target_ip_address_enabled', 'off', { fallBackToMountTargetIp: false }],
  ['mount', 'disable_fetch_ec2_metadata_token', 'true', null],
  ['mount', 'retry_nfs_mount_command', 'false', { retryNfsMount: false }],
  ['mount', 'retry_nfs_mount_command_count', '5', { retryNfsMountCount: 5 }],
  ['mount', 'retry_nfs_mount_command_timeout_sec', '60', { retryNfsMountTimeoutMs: 60_000 }],
  ['mount-watchdog', 'enabled', 'false', null],
  ['mount-watchdog', 'poll_interval_sec', '5', null],
  ['mount-watchdog', 'unmount_count_for_consistency', '9', null],
  ['mount-watchdog', 'unmount_grace_period_sec', '90', null],
  ['mount-watchdog', 'tls_cert_renewal_interval_min', '30', null],
  ['mount-watchdog', 'stunnel_health_check_enabled', 'false', null],
  ['mount-watchdog', 'stunnel_health_check_interval_min', '1', null],
  ['mount-watchdog', 'stunnel_health_check_command_timeout_sec', '10', null],
  ['client-info', 'source', 'ecs.fargate', { clientSource: 'ecs.fargate' }],
  ['cloudwatch-log', 'enabled', 'true', { cloudWatchEnabled: true }],
  ['cloudwatch-log', 'log_group_name', '/efs/{fs_id}', { logGroup: '/efs/{fs_id}' }],
  ['cloudwatch-log', 'retention_in_days', '30', { logRetentionDays: 30 }],
  ['proxy', 'proxy_logging_level', 'DEBUG', null],
  ['proxy', 'proxy_logging_max_bytes', '2097152', null],
  ['proxy', 'proxy_logging_file_count', '3', null],
  ['proxy', 'metrics_enabled', 'true', null],
  ['proxy', 'read_bypass_denylist_size', '1', null],
  ['proxy', 'read_bypass_denylist_ttl_seconds', '1', null],
  ['proxy', 's3_read_chunk_size_bytes', '1', null],
  ['proxy', 'readahead_cache_enabled', 'true', null],
  ['proxy', 'readahead_cache_init_memory_size_mb', '1', null],
  ['proxy', 'readahead_cache_max_memory_size_mb', '1', null],
  ['proxy', 'readahead_init_window_size_bytes', '1', null],
  ['proxy', 'readahead_max_window_size_bytes', '1', null],
  ['proxy', 'readahead_cache_eviction_interval_ms', '1', null],
  ['proxy', 'readahead_cache_target_utilization_percent', '1', null],
  ['proxy', 'read_bypass_max_in_flight_s3_bytes', '1', null],
];

test.each(referenceKeys)(
  '[%s] %s = %s does what the specification says, or is said to do nothing',
  (...row) => {
    const [section, key, value, effect] = row;

    for (const line of [`${key} = ${value}`, `${key.toUpperCase()}: ${value}`]) {
      const { warnings, origins, ...values } = configOf(`[${section}]\n${line}\n`);
      const { warnings: _none, origins: _default, ...untouched } = parseConfig([]);

      expect(values).toEqual({ ...untouched, ...effect });
      if (effect === null)
        expect(warnings).toEqual([expect.stringMatching(`:2: \\[${section}\\] ${key} has no effect: .`)]);
      else {
        const name = Object.keys(effect)[0] as keyof Config['origins'];
        expect(origins[name]).toEqual({ kind: 'file', path, line: 2 });
      }
    }
  },
);

test('that table leaves out no key of the reference that efs-agent knows', () => {
  const known = [...Object.values(settings), ...settingsWithoutEffect]
    .filter(({ section }) => section !== 'agent')
    .map(({ section, key }) => `${section} ${key}`);

  expect(referenceKeys.map(([section, key]) => `${section} ${key}`).toSorted()).toEqual(known.toSorted());
});

test('the check of the server name cannot be turned off, and the attempt is warned about', () => {
  const { warnings } = configOf('[mount]\nstunnel_check_cert_hostname = false');

  expect(warnings).toEqual([
    `${path}:2: [mount] stunnel_check_cert_hostname has no effect: the mount target's name is always checked`,
  ]);
});

test('a key without effect is warned about only when it says something else than the shipped file', () => {
  for (const { section, key, shipped: value } of settingsWithoutEffect) {
    if (value !== null) expect(configOf(`[${section}]\n${key} = ${value}`).warnings).toEqual([]);
    expect(configOf(`[${section}]\n${key} = other`).warnings).toHaveLength(1);
  }
});

test('OCSP in the configuration is warned about', () => {
  const config = configOf('[mount]\nstunnel_check_cert_validity = true');

  expect(config.checkOcsp).toBe(true);
  expect(config.warnings).toEqual([
    expect.stringContaining('every mount with tls is refused unless it has noocsp'),
  ]);
});

test('each key of the reference has the value of the specification when no file names it', () => {
  const shippedValues: [key: string, value: string | null][] = [
    ['logging_level', 'INFO'],
    ['dns_name_format', '{az}.{fs_id}.efs.{region}.{dns_name_suffix}'],
    ['dns_name_suffix', 'amazonaws.com'],
    ['region', null],
    ['az_id', null],
    ['stunnel_cafile', '/etc/amazon/efs/efs-utils.crt'],
    ['stunnel_check_cert_validity', 'false'],
    ['fips_mode_enabled', 'false'],
    ['port_range_lower_bound', '20049'],
    ['port_range_upper_bound', '21049'],
    ['optimize_readahead', 'true'],
    ['fall_back_to_mount_target_ip_address_enabled', 'true'],
    ['retry_nfs_mount_command', 'true'],
    ['retry_nfs_mount_command_count', '3'],
    ['retry_nfs_mount_command_timeout_sec', '15'],
    ['source', null],
  ];
  const listed = listEffectiveSettings([]);

  for (const [key, value] of shippedValues) {
    expect(
      listed.find((one) => one.key === key),
      key,
    ).toMatchObject({ value, origin: { kind: 'default' } });
  }
});

test.each([
  ['9558', { host: '127.0.0.1', port: 9_558 }],
  ['10.1.1.10:80', { host: '10.1.1.10', port: 80 }],
  ['[::1]:9558', { host: '::1', port: 9_558 }],
])('metrics_listen = %s is a place to listen', (text, expected) => {
  expect(parseConfig([{ path, text: `[agent]\nmetrics_listen = ${text}\n` }]).metricsListen).toEqual(
    expected,
  );
});

test('metrics_listen refuses what is no place to listen', () => {
  for (const text of [
    '0',
    '65536',
    'localhost:9558',
    ':9558',
    '::1:9558',
    '[::1]',
    '10.1.1.10:',
    '*:9558',
    'x',
  ])
    expect(() => parseConfig([{ path, text: `[agent]\nmetrics_listen = ${text}\n` }]), text).toThrow(
      'must be a port, or an address and a port',
    );
});

test('every key of a file is listed with its place, also one without effect', () => {
  const examples = new Map([
    ['metadata_endpoint', 'http://[::1]:1338'],
    ['az_id', 'use1-az1'],
    ['metrics_listen', '[::1]:9558'],
  ]);
  for (const { section, key, shipped: value } of [...Object.values(settings), ...settingsWithoutEffect]) {
    const text = value ?? examples.get(key) ?? 'us-east-1';
    const listed = listEffectiveSettings([{ path, text: `[${section}]\n${key} = ${text}\n` }]);

    expect(listed.find((one) => one.section === section && one.key === key)).toMatchObject({
      value: text,
      origin: { kind: 'file', path, line: 2 },
    });
  }
});

/** Files as they are found on machines: older packages, the CSI driver, hands. */
test.each([
  [
    'the file of an early package',
    '[DEFAULT]\nlogging_level = INFO\nlogging_max_bytes = 1048576\nlogging_file_count = 10\n\n[mount]\ndns_name_format = {fs_id}.efs.{region}.amazonaws.com\nstunnel_debug_enabled = false\n\nstunnel_check_cert_hostname = true\nstunnel_check_cert_validity = false\n\nport_range_lower_bound = 20049\nport_range_upper_bound = 20449\n\n[mount-watchdog]\nenabled = true\npoll_interval_sec = 1\nunmount_grace_period_sec = 30\n',
    { portRangeUpper: 20_449, dnsNameFormat: '{fs_id}.efs.{region}.amazonaws.com' },
  ],
  [
    'the file of the CSI driver',
    '[DEFAULT]\nlogging_level = INFO\nstate_file_dir_mode = 750\n[mount]\ndns_name_format = {az}.{fs_id}.efs.{region}.{dns_name_suffix}\ndns_name_suffix = amazonaws.com\nregion = eu-west-1\nfall_back_to_mount_target_ip_address_enabled = true\n[client-info]\nsource=k8s\n[mount-watchdog]\nenabled = true\ntls_cert_renewal_interval_min = 60\n[cloudwatch-log]\nlog_group_name = /aws/efs/utils\n',
    { region: 'eu-west-1', clientSource: 'k8s' },
  ],
  [
    'a file with names from other keys',
    '[DEFAULT]\nbase = amazonaws.com\nregion = us-gov-west-1\n[mount]\ndns_name_suffix = %(base)s\n',
    { dnsNameSuffix: 'amazonaws.com', region: 'us-gov-west-1' },
  ],
])('%s is read', (_what, text, expected) => {
  expect(configOf(text)).toMatchObject(expected);
});

test('a log level that is none means INFO, with a warning', () => {
  const config = configOf('[DEFAULT]\nlogging_level = loud');

  expect(config.logLevel).toBe('info');
  expect(config.warnings).toHaveLength(1);
});

test('a client source longer than 100 characters is not used', () => {
  expect(configOf(`[client-info]\nsource = ${'x'.repeat(100)}`).clientSource).toBe('x'.repeat(100));
  expect(configOf(`[client-info]\nsource = ${'x'.repeat(101)}`)).toMatchObject({
    clientSource: null,
    warnings: [expect.any(String)],
  });
});

test('any value of any key is a configuration or one explained error', () => {
  const lines = fc.tuple(
    fc.constantFrom(...Object.values(settings), ...settingsWithoutEffect),
    fc.oneof(
      fc.constantFrom('true', '', '20049', '65536', 'a.b', '%', '%(region)s', 'http://x'),
      fc.string({ maxLength: 12 }),
    ),
  );
  fc.assert(
    fc.property(lines, ([{ section, key }, value]) => {
      try {
        const config = configOf(`[${section}]\n${key} = ${value}\n`);
        expect(config.portRangeLower).toBeLessThan(config.portRangeUpper);
      } catch (error) {
        expect(error).toBeInstanceOf(AgentError);
        expect(['config.malformed', 'config.invalid']).toContain((error as AgentError).code);
      }
    }),
  );
});

test('nothing that stands in [cloudwatch-log] stops a mount', () => {
  const said = configOf(
    '[cloudwatch-log]\nenabled = yes\nlog_group_name = /efs/{fs_id}\nretention_in_days = 30\n',
  );
  const wrong = configOf(
    '[cloudwatch-log]\nenabled = perhaps\nlog_group_name = a b\nretention_in_days = 0\n',
  );

  expect(said).toMatchObject({
    cloudWatchEnabled: true,
    logGroup: '/efs/{fs_id}',
    logRetentionDays: 30,
    warnings: [],
  });
  expect(wrong).toMatchObject({ cloudWatchEnabled: false, logGroup: '/aws/efs/utils', logRetentionDays: 14 });
  expect(wrong.warnings).toHaveLength(3);
  fc.assert(
    fc.property(fc.stringMatching(/^[^\s%#;][^\r\n%]{0,30}$/), (text) => {
      const config = configOf(
        `[cloudwatch-log]\nenabled = ${text}\nlog_group_name = ${text}\nretention_in_days = ${text}\n`,
      );
      expect(config.logGroup).toMatch(/^[A-Za-z0-9._/#{}-]+$/);
      expect(config.logRetentionDays).toBeGreaterThanOrEqual(1);
    }),
  );
});
