import { AgentError } from './errors.ts';

/** What the DNS name of a file system is made of. */
export interface DnsNameParts {
  /** `dns_name_format`, for example `{az}.{fs_id}.efs.{region}.{dns_name_suffix}`. */
  format: string;
  fileSystemId: string;
  region: string;
  suffix: string;
  /** Availability zone name; null leaves the zone label out. */
  zone: string | null;
  /** Zone id of this instance, for the file system of another account; the template is not used then. */
  crossAccountZoneId?: string | null;
}

/** A file system's DNS name, taken apart. */
export interface FileSystemName {
  zone: string | null;
  fileSystemId: string;
  region: string;
  suffix: string;
}

/**
 * Says whether a text has the form of a region name: 1 to 32 lower-case letters, digits and inner hyphens.
 *
 * Source: specification 1.5, `region`.
 */
export function isRegionName(text: string): boolean {
  return /^[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?$/.test(text);
}

/**
 * Says whether a text has the form of an availability zone's name or id, such as `us-east-1a` or `use1-az4`.
 *
 * Source: specification 3.3: one DNS label of lower-case letters, digits and hyphens.
 */
export function isZoneName(text: string): boolean {
  return /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/.test(text);
}

/**
 * Says whether a text has the form of a file system id: `fs-` and lower-case hexadecimal digits, any number.
 *
 * Source: specification 1.2.
 */
export function isFileSystemId(text: string): boolean {
  return /^fs-[0-9a-f]+$/.test(text);
}

/**
 * Says whether a text can be looked up as a host name: labels of letters, digits, hyphens and underscores.
 *
 * Source: RFC 1123 section 2.1; underscores because resolvers accept them.
 */
export function isHostName(text: string): boolean {
  return (
    text.length <= 253 &&
    /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\.?$/i.test(text)
  );
}

/**
 * Fills in the DNS name template of a file system.
 *
 * Errors: `config.invalid` when the template lacks `{fs_id}`, has a placeholder or brace that is not
 * known, or gives something that is no host name. Source: specification 3.1.
 */
export function planDnsName(parts: DnsNameParts): string {
  if (parts.crossAccountZoneId)
    return `${parts.crossAccountZoneId}.${parts.fileSystemId}.efs.${parts.region}.${parts.suffix}`;
  if (!parts.format.includes('{fs_id}')) {
    throw new AgentError('config.invalid', `dns_name_format must contain {fs_id}: ${parts.format}`, {
      key: 'dns_name_format',
    });
  }
  const values = new Map([
    ['{fs_id}', parts.fileSystemId],
    ['{region}', parts.region],
    ['{dns_name_suffix}', parts.suffix],
  ]);
  if (parts.zone !== null) values.set('{az}', parts.zone);
  const template = parts.zone === null ? parts.format.replaceAll('{az}.', '') : parts.format;

  const name = template.replace(/\{[^{}]*\}/g, (placeholder) => values.get(placeholder) ?? placeholder);

  if (/[{}]/.test(name)) {
    throw new AgentError(
      'config.invalid',
      `dns_name_format has a placeholder that is not one of {az}. {fs_id} {region} {dns_name_suffix}: ${parts.format}`,
      { key: 'dns_name_format' },
    );
  }
  if (!isHostName(name)) {
    throw new AgentError(
      'config.invalid',
      `dns_name_format and dns_name_suffix give "${name}", which is not a host name`,
      {
        key: 'dns_name_format',
        name,
      },
    );
  }
  return name;
}

/**
 * The name the server certificate must carry and that is sent as SNI: the DNS name from the file system id onward.
 *
 * Source: specification 6.4, `checkHost`.
 */
export function tlsServerName(dnsName: string, fileSystemId: string): string {
  return dnsName.slice(Math.max(0, dnsName.indexOf(fileSystemId)));
}

/**
 * Takes the canonical DNS name of a file system apart; null when the name is not one.
 *
 * The caller builds the expected name with `planDnsName` and compares: a name that only looks right is no proof.
 *
 * Source: specification 3.3.
 */
export function parseFileSystemName(canonicalName: string): FileSystemName | null {
  const match =
    /^(?:(?<zone>[a-z0-9-]+)\.)?(?<id>fs-[0-9a-f]+)\.(?:[a-z-]+\.)+(?<region>[a-z0-9-]+)\.(?<suffix>[a-z0-9.-]+)$/.exec(
      canonicalName,
    )?.groups;
  if (match === undefined || !isHostName(canonicalName) || !isRegionName(match['region']!)) return null;
  return {
    zone: match['zone'] ?? null,
    fileSystemId: match['id']!,
    region: match['region']!,
    suffix: match['suffix']!,
  };
}

/**
 * The region that is written into a DNS name template instead of `{region}`; null when there is none.
 *
 * Source: specification 3.2, step 6: the second-to-last piece before `{dns_name_suffix}`, the third-to-last of a
 * template that ends in `amazonaws.com`.
 */
export function regionInFormat(format: string): string | null {
  if (format.includes('{region}')) return null;
  const pieces = format.split('.');
  const region = format.includes('{dns_name_suffix}')
    ? pieces.at(-2)
    : format.includes('amazonaws.com')
      ? pieces.at(-3)
      : undefined;
  return region !== undefined && isRegionName(region) ? region : null;
}

/** A network that this machine has an address in. */
export interface LocalNetwork {
  /** IPv4 or IPv6 literal. */
  address: string;
  prefixBits: number;
}

/**
 * Puts the addresses that are in a network of this machine first and leaves the order alone otherwise: a subnet is in
 * one availability zone, so a mount target in ours is in our zone.
 */
export function orderByNearness(addresses: readonly string[], networks: readonly LocalNetwork[]): string[] {
  const isNear = (address: string) => {
    const bits = addressBits(address);
    return (
      bits !== null &&
      networks.some((network) => {
        const own = addressBits(network.address);
        return (
          own !== null &&
          own.length === bits.length &&
          network.prefixBits > 0 &&
          own.slice(0, network.prefixBits) === bits.slice(0, network.prefixBits)
        );
      })
    );
  };
  const near = addresses.filter(isNear);
  return [...near, ...addresses.filter((address) => !near.includes(address))];
}

/** An address as a text of binary digits, 32 or 128 of them; null for what is no address. */
function addressBits(address: string): string | null {
  if (/^[0-9]+(?:\.[0-9]+){3}$/.test(address)) {
    const octets = address.split('.').map(Number);
    return octets.every((octet) => octet <= 255)
      ? octets.map((octet) => octet.toString(2).padStart(8, '0')).join('')
      : null;
  }
  const halves = address.replace(/%.*$/, '').split('::');
  const groups = halves.map((half) => (half === '' ? [] : half.split(':').flatMap(groupsOf)));
  const missing = 8 - groups.flat().length;
  if (halves.length > 2 || missing < 0 || (halves.length === 1 && missing !== 0)) return null;
  const all = [...groups[0]!, ...Array<string>(missing).fill('0'), ...(groups[1] ?? [])];
  return all.every((group) => /^[0-9a-f]{1,4}$/i.test(group))
    ? all.map((group) => Number.parseInt(group, 16).toString(2).padStart(16, '0')).join('')
    : null;
}

/** The last part of an IPv6 address may be an IPv4 address: it stands for two groups. */
function groupsOf(part: string): string[] {
  if (!part.includes('.')) return [part];
  const [a = 0, b = 0, c = 0, d = 0] = part.split('.').map(Number);
  return [a * 256 + b, c * 256 + d].map((group) => group.toString(16));
}
