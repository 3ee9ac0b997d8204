import { AgentError } from '../core/errors.ts';
import type { MountTargetFacts } from '../core/identity-protocol.ts';
import {
  type AwsPlace,
  type AwsService,
  configureClient,
  showService,
  translateSdkError,
} from './aws-api.ts';
import { type Keys, showCode } from './keys.ts';

/** One mount target of a file system, as EFS describes it. */
export interface MountTarget {
  mountTargetId: string;
  /** `available`, `creating`, `updating`, `error`, `deleting`, `deleted`. */
  state: string;
  zone: string | null;
  zoneId: string | null;
  ipv4: string | null;
  ipv6: string | null;
}

/** A zone by both its names; the id alone means the same zone in every account. */
export interface Zone {
  name: string;
  id: string;
}

/** The file system, and who asks about it. */
export interface MountTargetQuestion {
  fileSystemId: string;
  keys: Keys;
  /** Where the keys came from, for messages. */
  source: string;
  place: AwsPlace;
}

const budgetMs = 5_000;

/**
 * The mount target of a file system in a zone, or a random one when `zoneName` is null.
 *
 * Units: `random` in [0, 1); ends within ten seconds. Errors: `dns.not-found` when there is no mount target to use,
 * `credentials.rejected` when the identity may not ask, `dns.failed` when a service gave no usable answer; each with its own hint.
 * Source: specification 3.4 number 3.
 */
export async function readMountTarget(
  question: MountTargetQuestion,
  zoneName: string | null,
  random: () => number,
): Promise<MountTargetFacts> {
  const targets = await describeMountTargets(question);
  const zone = zoneName === null || targets.length === 0 ? null : await describeZone(question, zoneName);
  const {
    mountTargetId,
    zone: ownZone,
    ipv4,
    ipv6,
  } = chooseMountTarget(question.fileSystemId, targets, zone, random);
  const addresses = [ipv4, ipv6].filter((address) => address !== null);
  return { mountTargetId, zone: ownZone ?? zone?.name ?? null, addresses };
}

/**
 * Chooses the mount target of a zone, or any when the zone is not known; only one that is available and has an address.
 *
 * Units: `random` in [0, 1). Errors: `dns.not-found`; the message says what there is instead. Source: specification 3.4 number 3.
 */
export function chooseMountTarget(
  fileSystemId: string,
  targets: readonly MountTarget[],
  zone: Zone | null,
  random: () => number,
): MountTarget {
  if (targets.length === 0) {
    throw new AgentError('dns.not-found', `${fileSystemId} has no mount target`, {
      hint: 'Create a mount target for the file system in a subnet of this VPC.',
    });
  }
  const usable = targets.filter(
    ({ state, ipv4, ipv6 }) => state === 'available' && (ipv4 !== null || ipv6 !== null),
  );
  if (zone === null) {
    const any = usable[Math.floor(random() * usable.length)];
    if (any !== undefined) return any;
    const states = targets.map((target) => `${target.mountTargetId} is ${target.state}`).join(', ');
    throw new AgentError(
      'dns.not-found',
      `${fileSystemId} has no mount target that is available: ${states}`,
      {
        hint: targets.some(({ state }) => isPassing(state)) ? retryHint : createHint,
      },
    );
  }
  const found = usable.find(({ zoneId }) => zoneId === zone.id);
  if (found !== undefined) return found;
  const other = targets.find(({ zoneId }) => zoneId === zone.id);
  if (other !== undefined) {
    throw new AgentError(
      'dns.not-found',
      `the mount target ${other.mountTargetId} of ${fileSystemId} in ${zone.name} is ${other.state === 'available' ? 'without an address' : other.state}`,
      { hint: isPassing(other.state) ? retryHint : createHint },
    );
  }
  const zones = usable.map((target) => target.zone ?? target.zoneId ?? target.mountTargetId).join(', ');
  throw new AgentError(
    'dns.not-found',
    `${fileSystemId} has no mount target in ${zone.name} (${zone.id}); it has ${zones === '' ? 'none that is available' : `some in ${zones}`}`,
    { hint: 'Create a mount target in this zone, or name one of the others with the option az=<zone>.' },
  );
}

const retryHint = 'Wait until the mount target is available and try again in 5 minutes.';
const createHint = 'Create a new mount target for the file system.';

function isPassing(state: string): boolean {
  return ['creating', 'updating', 'error'].includes(state);
}

async function describeMountTargets(question: MountTargetQuestion): Promise<MountTarget[]> {
  const { fileSystemId, place } = question;
  const { EFSClient, DescribeMountTargetsCommand } = await import('@aws-sdk/client-efs');
  const client = new EFSClient(configureClient('EFS', place, budgetMs, question.keys));
  try {
    const answer = await client.send(new DescribeMountTargetsCommand({ FileSystemId: fileSystemId }), {
      abortSignal: AbortSignal.timeout(budgetMs),
    });
    return (answer.MountTargets ?? []).map((target) => ({
      mountTargetId: target.MountTargetId ?? '',
      state: target.LifeCycleState ?? 'unknown',
      zone: target.AvailabilityZoneName ?? null,
      zoneId: target.AvailabilityZoneId ?? null,
      ipv4: target.IpAddress || null,
      ipv6: target.Ipv6Address || null,
    }));
  } catch (thrown) {
    if (nameOf(thrown) === 'FileSystemNotFound') {
      throw new AgentError(
        'dns.not-found',
        `EFS knows no ${fileSystemId} in ${place.region} in the account of these credentials (${question.source})`,
        { hint: 'Check the file system id, the region, and whose account the credentials belong to.' },
        thrown,
      );
    }
    throw explainRefusal(thrown, 'EFS', 'elasticfilesystem:DescribeMountTargets', question);
  } finally {
    client.destroy();
  }
}

/** A rehearsal comes first: it tells a missing permission apart from a zone that does not exist. */
async function describeZone(question: MountTargetQuestion, name: string): Promise<Zone> {
  const { place } = question;
  const { EC2Client, DescribeAvailabilityZonesCommand } = await import('@aws-sdk/client-ec2');
  const client = new EC2Client(configureClient('EC2', place, budgetMs, question.keys));
  const abortSignal = AbortSignal.timeout(budgetMs);
  const ask = (DryRun: boolean) =>
    client.send(new DescribeAvailabilityZonesCommand({ ZoneNames: [name], DryRun }), { abortSignal });
  try {
    await ask(true).catch((thrown: unknown) => {
      if (nameOf(thrown) !== 'DryRunOperation') throw thrown;
    });
    const id = (await ask(false)).AvailabilityZones?.find(({ ZoneId }) => ZoneId)?.ZoneId;
    if (id) return { name, id };
    throw noSuchZone(name, place);
  } catch (thrown) {
    if (nameOf(thrown) === 'InvalidParameterValue') throw noSuchZone(name, place, thrown);
    throw explainRefusal(thrown, 'EC2', 'ec2:DescribeAvailabilityZones', question);
  } finally {
    client.destroy();
  }
}

function noSuchZone(name: string, { region }: AwsPlace, thrown?: unknown): AgentError {
  return new AgentError(
    'dns.not-found',
    `EC2 knows no availability zone ${name} in ${region}`,
    { hint: 'Check the option az: a zone name such as us-east-1a, in the region of the file system.' },
    thrown,
  );
}

function explainRefusal(
  thrown: unknown,
  service: AwsService,
  action: string,
  { place, source }: MountTargetQuestion,
): AgentError {
  if (thrown instanceof AgentError) return thrown;
  const code = nameOf(thrown);
  if (['AccessDeniedException', 'AccessDenied', 'UnauthorizedOperation'].includes(code)) {
    return new AgentError(
      'credentials.rejected',
      `${showService(service, place)} does not allow ${action} to these credentials (${source}): ${code}`,
      { hint: `Allow ${action} to this identity, or let the name of the file system resolve.` },
      thrown,
    );
  }
  if (code === 'ServiceUnavailableException' || code === 'ServiceUnavailable') {
    return new AgentError(
      'dns.failed',
      `${showService(service, place)} is unavailable: ${code}`,
      { hint: 'Try again later; the service itself refused for now.' },
      thrown,
    );
  }
  const { code: fault, message } = translateSdkError(thrown, showService(service, place));
  if (fault === 'credentials.rejected') return new AgentError(fault, `${message} to ${action}`, {}, thrown);
  // Where no name resolves at all, what to do about names is the better hint, and comes with the name of the file system.
  const hint = isUnresolved(thrown)
    ? {}
    : {
        hint: `Check that HTTPS to ${showService(service, place)} is allowed, or add a VPC endpoint for it.`,
      };
  return new AgentError('dns.failed', message, hint, thrown);
}

function isUnresolved(thrown: unknown): boolean {
  const { syscall } = thrown as { syscall?: unknown };
  return syscall === 'getaddrinfo';
}

function nameOf(thrown: unknown): string {
  const { name } = thrown as { name?: unknown };
  return typeof name === 'string' ? showCode(name) : '';
}
