import { type Config, configuredCaFile, configuredSuffix } from '../core/config.ts';
import {
  isRegionName,
  parseFileSystemName,
  planDnsName,
  regionInFormat,
  tlsServerName,
} from '../core/endpoint.ts';
import { AgentError, asAgentError } from '../core/errors.ts';
import type { MountSpec } from '../core/mount-spec.ts';
import type { MountState } from '../core/mount-state.ts';
import type { Log, ResolveCanonicalName, ResolveName } from '../core/ports.ts';
import type { Caller, Identities } from './identities.ts';
import type { TunnelPlan } from './tunnel.ts';

/** A mount that is asked for, as it came over the control socket. */
export interface MountRequest {
  spec: MountSpec;
  mountPoint: string | null;
  environment: Record<string, string>;
}

export interface PlanPorts {
  log: Log;
  random: () => number;
  version: string;
  hostName: string;
  /** Whether Node's OpenSSL uses nothing but validated algorithms. */
  cryptoIsFips(): boolean;
  /** Read for every mount, so that an edited file counts at once. Errors: `config.*`. */
  readConfig(): Promise<Config>;
  /** PEM texts of the trust anchors. `named` is false for the built-in default path. Errors: `ca-file.unreadable`. */
  readTrustedRoots(path: string, named: boolean): Promise<string[]>;
  resolveName: ResolveName;
  resolveCanonicalName: ResolveCanonicalName;
  identities: Pick<Identities, 'instance'>;
}

/**
 * Decides everything about a mount before anything is opened for it.
 *
 * Errors: `config.*`, `region.*`, `spec.malformed`, `option.*`, `dns.*`, `metadata.unavailable`, `ca-file.unreadable`.
 * Source: specification 2, 3.
 */
export async function planMount(
  ports: PlanPorts,
  request: MountRequest & { callerSocket: string | null },
): Promise<{ plan: TunnelPlan; config: Config }> {
  const { spec } = request;
  const config = await ports.readConfig();
  for (const warning of config.warnings) ports.log('warn', 'config.warning', { warning });
  const environment = planEnvironment(request.environment, config);
  checkPromises(ports, spec, environment, config);
  const caller: Caller = { environment, metadataEndpoint: config.metadataEndpoint };
  const named = spec.remote.kind === 'name' ? await readFileSystemName(ports, spec.remote.name) : null;
  const region = await decideRegion(ports, spec.region, caller, config, named?.region ?? null);
  const fileSystemId = spec.remote.kind === 'file-system' ? spec.remote.id : named!.fileSystemId;
  const zoneId = spec.crossAccount ? await decideZoneId(ports, spec, caller, config) : null;
  const dnsName = planDnsName({
    format: config.dnsNameFormat,
    fileSystemId,
    region,
    suffix: configuredSuffix(config, region).value,
    zone: decideZone(spec.zone, named),
    crossAccountZoneId: zoneId,
  });
  if (named !== null && dnsName !== named.canonicalName) {
    throw new AgentError(
      'spec.malformed',
      `"${named.canonicalName}" did not resolve to a valid DNS name of an EFS mount target: for ${fileSystemId} in ${region} it would be ${dnsName}`,
    );
  }
  const plan = await completePlan(ports, { ...request, environment }, config, {
    fileSystemId,
    region,
    dnsName,
  });
  return { plan, config };
}

/**
 * The plan of a mount that an earlier agent made, on the same port: its region and names stand in the record, so that neither
 * name servers nor the metadata service need to answer while the kernel waits.
 *
 * Errors: `config.*`, `ca-file.unreadable`.
 */
export async function planRecordedMount(ports: PlanPorts, state: MountState): Promise<TunnelPlan> {
  const config = await ports.readConfig();
  const { spec, mountPoint, port, callerSocket } = state;
  const environment = planEnvironment(state.environment, config);
  const plan = await completePlan(ports, { spec, mountPoint, environment, callerSocket }, config, state);
  return port === null ? plan : { ...plan, localPorts: { lower: port, upperExclusive: port + 1 } };
}

/** The same, but what it reads of files is read at most once. */
export function readOnce(ports: PlanPorts): PlanPorts {
  let config: ReturnType<PlanPorts['readConfig']> | null = null;
  const roots = new Map<string, ReturnType<PlanPorts['readTrustedRoots']>>();
  return {
    ...ports,
    readConfig() {
      config ??= ports.readConfig();
      return config;
    },
    readTrustedRoots(path, named) {
      const key = `${named} ${path}`;
      const reading = roots.get(key) ?? ports.readTrustedRoots(path, named);
      roots.set(key, reading);
      return reading;
    },
  };
}

async function completePlan(
  ports: PlanPorts,
  request: MountRequest & { callerSocket: string | null },
  config: Config,
  where: { fileSystemId: string; region: string; dnsName: string },
): Promise<TunnelPlan> {
  const { spec } = request;
  const { fileSystemId, region, dnsName } = where;
  return {
    ...request,
    fileSystemId,
    region,
    dnsSuffix: configuredSuffix(config, region).value,
    dnsName,
    serverName: tlsServerName(dnsName, fileSystemId),
    mountTargetPort: config.mountTargetPort,
    dialTimeoutMs: config.dialTimeoutMs,
    askApi: config.fallBackToMountTargetIp && !spec.crossAccount,
    trustedRootsPem: spec.tls ? await readRoots(ports, spec, config, region) : [],
    metadataEndpoint: config.metadataEndpoint,
    commonName: ports.hostName,
    clientInfo: { source: config.clientSource ?? 'unknown', version: ports.version },
    localPorts:
      spec.tlsPort === null
        ? { lower: config.portRangeLower, upperExclusive: config.portRangeUpper }
        : { lower: spec.tlsPort, upperExclusive: spec.tlsPort + 1 },
  };
}

/**
 * The region of a file system.
 *
 * Errors: `region.malformed`, `region.unknown`. Source: specification 3.2; our choice: a region inside a DNS name or
 * written into the template counts before the instance's own, since it can only be that of the file system.
 */
export async function decideRegion(
  ports: Pick<PlanPorts, 'identities'>,
  option: string | null,
  caller: Caller,
  config: Config,
  inName: string | null,
): Promise<string> {
  const { AWS_REGION, AWS_DEFAULT_REGION } = caller.environment;
  const sources: [where: string, region: string | null | undefined][] = [
    ['the option region', option],
    ['AWS_REGION', AWS_REGION],
    ['AWS_DEFAULT_REGION', AWS_DEFAULT_REGION],
    ['region in the configuration', config.region],
    ['the region in the name', inName],
    ['the region in dns_name_format', regionInFormat(config.dnsNameFormat)],
  ];
  for (const [where, region] of sources) {
    if (region == null) continue;
    if (isRegionName(region)) return region;
    throw new AgentError('region.malformed', `${where} is "${region}", which is not the name of a region`, {
      region,
    });
  }
  try {
    return (await ports.identities.instance(caller)).region;
  } catch (error) {
    const reason = asAgentError(error);
    throw new AgentError(
      'region.unknown',
      `the region is not configured and the instance does not tell it: ${reason.message}`,
      {},
      error,
    );
  }
}

/** The AWS SDK reads FIPS mode from the environment. */
export function planEnvironment(environment: Record<string, string>, config: Config): Record<string, string> {
  return config.fipsMode ? { ...environment, AWS_USE_FIPS_ENDPOINT: 'true' } : environment;
}

/** What was asked for and cannot be kept is refused. Errors: `config.invalid`. */
function checkPromises(
  ports: PlanPorts,
  spec: MountSpec,
  environment: Record<string, string>,
  config: Config,
): void {
  if (!spec.tls) return;
  if (config.checkOcsp && !spec.noOcsp) {
    throw new AgentError(
      'config.invalid',
      'stunnel_check_cert_validity is true, but efs-agent does not check OCSP',
      {
        key: 'stunnel_check_cert_validity',
        hint: 'Set stunnel_check_cert_validity = false, or give the option noocsp.',
      },
    );
  }
  const wantsFips = environment['AWS_USE_FIPS_ENDPOINT']?.toLowerCase() === 'true';
  if (wantsFips && !ports.cryptoIsFips()) {
    throw new AgentError(
      'config.invalid',
      `FIPS mode is asked for (${config.fipsMode ? 'fips_mode_enabled' : 'AWS_USE_FIPS_ENDPOINT'}), but Node.js runs without a FIPS provider`,
      {
        key: 'fips_mode_enabled',
        hint: 'Run the agent with a Node.js whose OpenSSL is in FIPS mode (node --force-fips, OPENSSL_CONF).',
      },
    );
  }
}

async function readRoots(
  ports: PlanPorts,
  spec: MountSpec,
  config: Config,
  region: string,
): Promise<string[]> {
  if (spec.caFile !== null) return ports.readTrustedRoots(spec.caFile, true);
  const { value, origin } = configuredCaFile(config, region);
  return ports.readTrustedRoots(value, origin.kind !== 'default');
}

async function readFileSystemName(ports: PlanPorts, name: string) {
  const canonicalName = parseFileSystemName(name) === null ? await ports.resolveCanonicalName(name) : name;
  const parts = parseFileSystemName(canonicalName);
  if (parts !== null) return { ...parts, canonicalName };
  // A name that does not exist is another mistake than one that is not a file system's.
  if (canonicalName === name) await ports.resolveName(name);
  throw new AgentError(
    'spec.malformed',
    `"${name}" did not resolve to a valid DNS name of an EFS mount target (fs-<id>.efs.<region>.<suffix>)`,
    { name },
  );
}

function decideZone(
  option: string | null,
  named: { zone: string | null; canonicalName: string } | null,
): string | null {
  const inName = named?.zone ?? null;
  if (option !== null && inName !== null && option !== inName) {
    throw new AgentError(
      'option.conflict',
      `The zone in "${named!.canonicalName}" does not match the az provided: ${option}`,
      { options: 'az' },
    );
  }
  return option ?? inName;
}

/** Errors: `zone.unknown`; `option.conflict` for an `az` that is not this instance's. */
async function decideZoneId(
  ports: PlanPorts,
  spec: MountSpec,
  caller: Caller,
  config: Config,
): Promise<string> {
  if (config.zoneId !== null && spec.zone === null) return config.zoneId;
  const unknown = (reason: string, cause?: unknown) =>
    new AgentError(
      'zone.unknown',
      `"crossaccount" needs the AZ-ID metadata of this instance, which is not known: ${reason}`,
      {},
      cause,
    );
  const instance = await ports.identities.instance(caller, { withZoneId: true }).catch((error: unknown) => {
    throw unknown(asAgentError(error).message, error);
  });
  if (spec.zone !== null && spec.zone !== instance.availabilityZone) {
    throw new AgentError(
      'option.conflict',
      `The zone of this instance, ${instance.availabilityZone}, does not match the az provided: ${spec.zone}; "crossaccount" takes the zone of the instance`,
      { options: 'az,crossaccount' },
    );
  }
  const zoneId = config.zoneId ?? instance.availabilityZoneId;
  if (zoneId === null) throw unknown('instance metadata does not tell it');
  return zoneId;
}
