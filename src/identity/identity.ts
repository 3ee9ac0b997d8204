import { AgentError } from '../core/errors.ts';
import type {
  AgentToIdentity,
  CertificateReply,
  CertificateRequest,
  CredentialsRequest,
  IdentityFacts,
  InstanceFacts,
} from '../core/identity-protocol.ts';
import { createCertificate } from './certificate.ts';
import {
  type CallerContext,
  type Credentials,
  defaultContainerEndpoint,
  findCredentials,
} from './credentials.ts';
import { defaultMetadataEndpoint, readInstance, readRoleArn } from './metadata.ts';
import { readCallerArn, type StsPlace } from './sts.ts';

/** What one caller's identity process can do. */
export interface Identity {
  /** Makes a client certificate. Errors: `credentials.*`, `internal`. */
  certificate(request: CertificateRequest): Promise<CertificateReply>;
  /** Where this instance runs. Errors: `metadata.unavailable`. */
  instance(): Promise<InstanceFacts>;
  /** Whose the credentials are; `arn` is null if STS cannot be reached. Errors: `credentials.*`, `metadata.unavailable`. */
  whoami(request: CredentialsRequest, place: { region: string; dnsSuffix: string }): Promise<IdentityFacts>;
}

const renewBeforeExpiryMs = 5 * 60_000;

/**
 * Serves one caller's environment, and reads each credential source once for all who ask at the same time.
 *
 * Units: `now` gives epoch milliseconds.
 */
export function createIdentity(
  start: Extract<AgentToIdentity, { kind: 'start' }>,
  now: () => number,
): Identity {
  const { environment, home } = start;
  const context: CallerContext = {
    environment,
    home,
    metadataEndpoint:
      start.metadataEndpoint ?? environment['AWS_EC2_METADATA_SERVICE_ENDPOINT'] ?? defaultMetadataEndpoint,
    containerEndpoint: start.containerEndpoint ?? defaultContainerEndpoint,
  };
  const found = new Map<string, { credentials: Promise<Credentials>; freshUntilMs: number }>();

  function credentialsOf(request: CredentialsRequest, place: StsPlace): Promise<Credentials> {
    const key = JSON.stringify([request.awsProfile, request.awsCredsUri]);
    const kept = found.get(key);
    if (kept && now() < kept.freshUntilMs) return kept.credentials;
    const asked = {
      credentials: findCredentials(request, context, place, now()),
      freshUntilMs: Number.POSITIVE_INFINITY,
    };
    found.set(key, asked);
    asked.credentials.then(
      ({ keys }) => {
        // Keys without expiry come from files, which are cheap to read and may be edited.
        asked.freshUntilMs = (keys.expiresAtMs ?? 0) - renewBeforeExpiryMs;
      },
      () => {
        asked.freshUntilMs = 0;
      },
    );
    return asked.credentials;
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
    instance: () => readInstance(context.metadataEndpoint),
    async whoami(request, { region, dnsSuffix }) {
      const place = { region, dnsSuffix, environment };
      const credentials = await credentialsOf(request, place);
      return { ...describe(credentials), arn: await readArn(credentials, place, context) };
    },
  };
}

async function readArn(
  { owner, keys }: Credentials,
  place: StsPlace,
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
