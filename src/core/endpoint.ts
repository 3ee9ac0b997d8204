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
