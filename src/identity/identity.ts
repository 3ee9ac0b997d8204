import { AgentError } from '../core/errors.ts';
import type {
  AgentToIdentity,
  CertificateReply,
  CertificateRequest,
  CredentialsRequest,
  IdentityFacts,
  InstanceFacts,
  LogEvent,
  MountTargetFacts,
  MountTargetsRequest,
} from '../core/identity-protocol.ts';
import type { AwsPlace } from './aws-api.ts';
import { createCertificate } from './certificate.ts';
import { planLogGroup, planLogStream, prepareLogGroup, publishBudgetMs, putLogEvent } from './cloudwatch.ts';
import {
  type CallerContext,
  type Credentials,
  defaultContainerEndpoint,
  findCredentials,
} from './credentials.ts';
import { locateMetadata, readInstance, readRoleArn, readZoneId } from './metadata.ts';
import { readMountTarget } from './mount-targets.ts';
import { createShared } from './shared.ts';
import { readCallerArn } from './sts.ts';

/** What one caller's identity process can do. */
export interface Identity {
  /** Makes a client certificate. Errors: `credentials.*`, `internal`. */
  certificate(request: CertificateRequest): Promise<CertificateReply>;
  /** Where this instance runs. Errors: `metadata.unavailable`. */
  instance(withZoneId: boolean): Promise<InstanceFacts>;
  /** The mount target to use when the file system's name does not resolve. Errors: `credentials.*`, `dns.not-found`, `dns.failed`. */
  mountTarget(request: MountTargetsRequest): Promise<MountTargetFacts>;
  /** Writes an event to CloudWatch Logs, within six seconds once there are credentials. Errors: `credentials.*`, `cloudwatch.failed`. */
  publish(event: LogEvent): Promise<void>;
  /** Whose the credentials are; `arn` is null if STS cannot be reached. Errors: `credentials.*`, `metadata.unavailable`. */
  whoami(request: CredentialsRequest, place: { region: string; dnsSuffix: string }): Promise<IdentityFacts>;
}

const renewBeforeExpiryMs = 5 * 60_000;

/**
 * Serves one caller's environment, and asks each source once for all who ask at the same time.
 *
 * Units: `now` gives epoch milliseconds, `random` a number in [0, 1).
 */
export function createIdentity(
  start: Extract<AgentToIdentity, { kind: 'start' }>,
  now: () => number,
  random: () => number,
): Identity {
  const { environment, home } = start;
  const metadataEndpoint = locateMetadata(environment, start.metadataEndpoint);
  const context: CallerContext = {
    environment,
    home,
    metadataEndpoint,
    containerEndpoint: start.containerEndpoint ?? defaultContainerEndpoint,
  };
  // Keys without expiry come from files, which are cheap to read and may be edited.
  const shareCredentials = createShared<Credentials>(
    now,
    ({ keys }) => (keys.expiresAtMs ?? 0) - renewBeforeExpiryMs,
  );
  const shareArn = createShared<string | null>(now, (arn) => (arn === null ? 0 : Number.POSITIVE_INFINITY));
  // An instance does not move while it runs.
  const shareInstance = createShared<InstanceFacts>(now, () => Number.POSITIVE_INFINITY);
  const shareZoneId = createShared<string>(now, () => Number.POSITIVE_INFINITY);
  const shareMountTarget = createShared<MountTargetFacts>(now, () => 0);
  // Many mounts at once would get in each other's way.
  const shareLogGroup = createShared<void>(now, () => Number.POSITIVE_INFINITY);

  const credentialsOf = (request: CredentialsRequest, place: AwsPlace) =>
    shareCredentials(JSON.stringify(request), () => findCredentials(request, context, place, now()));
  const instance = () => shareInstance('', () => readInstance(metadataEndpoint));

  async function findMountTarget(request: MountTargetsRequest): Promise<MountTargetFacts> {
    const { fileSystemId, region, dnsSuffix } = request;
    const place = { region, dnsSuffix, environment };
    const [{ keys, source }, zone] = await Promise.all([
      credentialsOf(request.credentials, place),
      request.zone ?? findOwnZone(region),
    ]);
    return readMountTarget({ fileSystemId, keys, source, place }, zone, random);
  }

  async function readInstanceId(): Promise<string | null> {
    try {
      return (await instance()).instanceId;
    } catch (thrown) {
      if (thrown instanceof AgentError && thrown.code === 'metadata.unavailable') return null;
      throw thrown;
    }
  }

  async function publish(event: LogEvent): Promise<void> {
    const { fileSystemId, retentionDays, region, dnsSuffix } = event;
    const place = { region, dnsSuffix, environment };
    const [{ keys }, instanceId] = await Promise.all([
      credentialsOf(event.credentials, place),
      readInstanceId(),
    ]);
    const publisher = { keys, place, signal: AbortSignal.timeout(publishBudgetMs) };
    const group = { name: planLogGroup(event.logGroup, fileSystemId), retentionDays };
    await shareLogGroup(JSON.stringify([group, region, keys.accessKeyId]), () =>
      prepareLogGroup(publisher, group),
    );
    const stream = planLogStream(fileSystemId, instanceId);
    await putLogEvent(publisher, { group: group.name, stream }, event);
  }

  /** Null outside of EC2, and for a file system of another region: this instance's zone is none of its. */
  async function findOwnZone(region: string): Promise<string | null> {
    try {
      const own = await instance();
      return own.region === region ? own.availabilityZone : null;
    } catch (thrown) {
      if (thrown instanceof AgentError && thrown.code === 'metadata.unavailable') return null;
      throw thrown;
    }
  }

  return {
    async certificate(request) {
      const { region, dnsSuffix } = request;
      const credentials =
        request.credentials && (await credentialsOf(request.credentials, { region, dnsSuffix, environment }));
      const content = { ...request, signingKey: credentials?.keys ?? null };
      const certificate = await createCertificate(content, request.privateKeyPem, now());
      return { ...certificate, identity: credentials && describe(credentials) };
    },
    async instance(withZoneId) {
      if (!withZoneId) return instance();
      // One after the other: where the first is not answered, the second is not worth a session token of its own.
      const own = await instance();
      return { ...own, availabilityZoneId: await shareZoneId('', () => readZoneId(metadataEndpoint)) };
    },
    mountTarget: (request) => shareMountTarget(JSON.stringify(request), () => findMountTarget(request)),
    publish,
    async whoami(request, { region, dnsSuffix }) {
      const place = { region, dnsSuffix, environment };
      const credentials = await credentialsOf(request, place);
      const arn = await shareArn(credentials.keys.accessKeyId, () => readArn(credentials, place, context));
      return { ...describe(credentials), arn };
    },
  };
}

async function readArn(
  { owner, keys }: Credentials,
  place: AwsPlace,
  context: CallerContext,
): Promise<string | null> {
  if (owner.kind === 'known') return owner.arn;
  if (owner.kind === 'instance-role') return readRoleArn(context.metadataEndpoint, owner.role);
  try {
    return await readCallerArn(keys, place);
  } catch (thrown) {
    // Many networks with EFS have no way to STS: the access key alone still tells more than an error.
    if (thrown instanceof AgentError && thrown.code === 'credentials.failed') return null;
    throw thrown;
  }
}

function describe({ keys, source, owner }: Credentials): IdentityFacts {
  return {
    source,
    accessKeyId: keys.accessKeyId,
    arn: owner.kind === 'known' ? owner.arn : null,
    expiresAtMs: keys.expiresAtMs,
  };
}
