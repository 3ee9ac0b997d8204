import { AgentError, type FaultCode } from '../core/errors.ts';
import type { CredentialsRequest } from '../core/identity-protocol.ts';
import { forgottenKeyId } from '../core/secret-environment.ts';
import type { AwsPlace } from './aws-api.ts';
import { readIndirectProfile } from './indirect-profile.ts';
import { type Keys, parseKeys } from './keys.ts';
import { askLocal, showUrl } from './local-http.ts';
import { readRoleKeys } from './metadata.ts';
import { findProfile, hasDefaultKeys, type ProfileFiles, readProfileFiles } from './profiles.ts';
import { assumeRoleWithWebIdentity } from './sts.ts';
import { withTokenFile } from './token-file.ts';

/** Credentials, where they came from and whose they are. Never logged. */
export interface Credentials {
  keys: Keys;
  /** As `IdentityFacts.source`. */
  source: string;
  owner: { kind: 'known'; arn: string } | { kind: 'instance-role'; role: string } | { kind: 'unknown' };
}

/** The caller's surroundings: they alone decide. */
export interface CallerContext {
  environment: Readonly<Record<string, string>>;
  home: string;
  /** Null: not to be asked. */
  metadataEndpoint: string | null;
  containerEndpoint: string;
}

/** Where the ECS agent hands out the credentials of tasks. */
export const defaultContainerEndpoint = 'http://169.254.170.2';

const notFound =
  'AWS Access Key ID and Secret Access Key are not found in AWS credentials file, in AWS config file, ' +
  'from ECS credentials relative uri, or from the instance security credentials service';

/**
 * Finds the credentials of a mount: the source the user named and no other, else the first of the chain that has some.
 *
 * Named are, in this order: `awscredsuri`, `rolearn` with `jwtpath`, `awsprofile`, `AWS_PROFILE`, the keys of the environment, and a
 * `default` profile that holds an access key. The chain: ECS, EKS pod identity and web identity as far as their variables are set, and
 * the instance role if none of them is and `AWS_EC2_METADATA_DISABLED` does not forbid it.
 *
 * Units: `nowMs` epoch milliseconds, for expiry. Errors: a `credentials.*` code; the message names every source that was tried and
 * why it had none, and holds no secret; `option.requires` for half a pair of options. Source: specification 4.2 and 4.3; that a
 * variable that is set keeps the instance role out, and the keys of the environment, are ours: AWS's own tools do the same.
 */
export async function findCredentials(
  request: CredentialsRequest,
  context: CallerContext,
  place: AwsPlace,
  nowMs: number,
): Promise<Credentials> {
  const { environment } = context;
  const { awsCredsUri, roleArn, jwtPath } = request;
  if (awsCredsUri !== null) return readNamedUri(awsCredsUri, context, nowMs);
  if (roleArn !== null && jwtPath !== null) return readNamedRole(roleArn, jwtPath, place, nowMs);
  if (roleArn !== null || jwtPath !== null)
    throw new AgentError('option.requires', 'The "rolearn" and "jwtpath" options need each other');
  const named = request.awsProfile ?? (environment['AWS_PROFILE'] || null);
  if (named === null && (environment['AWS_ACCESS_KEY_ID'] || environment['AWS_SECRET_ACCESS_KEY']))
    return { keys: readEnvironmentKeys(environment), source: 'environment', owner: { kind: 'unknown' } };
  const files = await readProfileFiles(context.home, environment);
  if (named !== null || hasDefaultKeys(files))
    return readNamedProfile(named ?? 'default', files, place, nowMs);
  return readChain(files, context, place, nowMs);
}

async function readNamedUri(uri: string, context: CallerContext, nowMs: number): Promise<Credentials> {
  try {
    return checkUnexpired(await readContainer(uri, context), nowMs);
  } catch (thrown) {
    const { code, reason } = explain(thrown);
    const url = `${context.containerEndpoint}${uri}`;
    throw new AgentError(
      code,
      `Unsuccessful retrieval of AWS security credentials at ${url}: ${reason}`,
      {},
      thrown,
    );
  }
}

async function readNamedRole(
  roleArn: string,
  tokenPath: string,
  place: AwsPlace,
  nowMs: number,
): Promise<Credentials> {
  try {
    return checkUnexpired(await readWebIdentity(roleArn, tokenPath, place), nowMs);
  } catch (thrown) {
    const { code, reason } = explain(thrown);
    throw new AgentError(
      code,
      `cannot assume the role ${roleArn} with the token in ${tokenPath}: ${reason}`,
      {},
      thrown,
    );
  }
}

function readEnvironmentKeys(environment: Readonly<Record<string, string>>): Keys {
  const [accessKeyId, secretAccessKey] = [
    environment['AWS_ACCESS_KEY_ID'],
    environment['AWS_SECRET_ACCESS_KEY'],
  ];
  if (accessKeyId === forgottenKeyId) {
    throw new AgentError(
      'credentials.failed',
      'the keys in the environment of the mount were kept in memory only, and the agent was restarted since',
      { hint: 'Unmount and mount again with the keys, or name a source that lasts: awsprofile= or a role.' },
    );
  }
  if (accessKeyId && secretAccessKey) {
    const sessionToken = environment['AWS_SESSION_TOKEN'] || null;
    return { accessKeyId, secretAccessKey, sessionToken, expiresAtMs: null };
  }
  const [set, unset] = accessKeyId
    ? ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY']
    : ['AWS_SECRET_ACCESS_KEY', 'AWS_ACCESS_KEY_ID'];
  throw new AgentError('credentials.failed', `${set} is set in the environment and ${unset} is not`, {
    hint: 'Set both variables, or neither.',
  });
}

async function readNamedProfile(
  name: string,
  files: ProfileFiles,
  place: AwsPlace,
  nowMs: number,
): Promise<Credentials> {
  try {
    return checkUnexpired(await readProfile(name, files, place), nowMs);
  } catch (thrown) {
    const { code, reason } = explain(thrown);
    const where = `${files.credentialsPath} or ${files.configPath} under named profile [${name}]`;
    throw new AgentError(
      code,
      `AWS security credentials not found in ${where}: ${reason}`,
      { ...(thrown instanceof AgentError ? thrown.details : {}), profile: name },
      thrown,
    );
  }
}

async function readChain(
  files: ProfileFiles,
  context: CallerContext,
  place: AwsPlace,
  nowMs: number,
): Promise<Credentials> {
  const tried = [
    `profile [default] of ${files.credentialsPath} and ${files.configPath}: no aws_access_key_id`,
  ];
  let blamed: FaultCode | null = null;
  for (const source of planChain(context, place)) {
    if (source.kind === 'unset') {
      tried.push(`${source.title}: ${source.variables.join(' and ')} not set`);
      continue;
    }
    try {
      return checkUnexpired(await source.read(), nowMs);
    } catch (thrown) {
      const { code, reason } = explain(thrown);
      // Whoever sets a variable means that source: its failure is the one to repair.
      blamed ??= code;
      tried.push(`${source.title}: ${reason}`);
    }
  }
  if (blamed === null) {
    try {
      return checkUnexpired(await readInstanceRole(context), nowMs);
    } catch (thrown) {
      const { code, reason } = explain(thrown);
      blamed = code;
      tried.push(`instance role: ${reason}`);
    }
  } else tried.push('instance role: not asked, because a source that is set failed');
  throw new AgentError(blamed, `${notFound}. Tried: ${tried.join('; ')}`);
}

type ChainLink =
  | { kind: 'unset'; title: string; variables: string[] }
  | { kind: 'set'; title: string; read: () => Promise<Credentials> };

function planChain(context: CallerContext, place: AwsPlace): ChainLink[] {
  const { environment } = context;
  /** @param meant the variable that names the source even where the others are missing. */
  const link = (
    title: string,
    variables: string[],
    meant: string,
    read: (...values: string[]) => Promise<Credentials>,
  ): ChainLink => {
    const missing = variables.filter((variable) => !environment[variable]);
    if (missing.length === 0)
      return { kind: 'set', title, read: () => read(...variables.map((variable) => environment[variable]!)) };
    if (!environment[meant]) return { kind: 'unset', title, variables };
    const why = `${meant} is set and ${missing.join(' and ')} is not`;
    return { kind: 'set', title, read: () => Promise.reject(new AgentError('credentials.failed', why)) };
  };
  const ecsUri = 'AWS_CONTAINER_CREDENTIALS_RELATIVE_URI';
  const podUri = 'AWS_CONTAINER_CREDENTIALS_FULL_URI';
  const podToken = 'AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE';
  const webToken = 'AWS_WEB_IDENTITY_TOKEN_FILE';
  return [
    link('ECS', [ecsUri], ecsUri, (uri) => readContainer(uri!, context)),
    link('EKS pod identity', [podUri, podToken], podUri, (uri, tokenPath) =>
      readPodIdentity(uri!, tokenPath!),
    ),
    // A role without a token means nothing to AWS's own tools either: scripts keep the name of a role there.
    link('web identity', ['AWS_ROLE_ARN', webToken], webToken, (roleArn, tokenPath) =>
      readWebIdentity(roleArn!, tokenPath!, place),
    ),
  ];
}

async function readContainer(uri: string, { containerEndpoint }: CallerContext): Promise<Credentials> {
  const base = new URL(containerEndpoint);
  const url = URL.canParse(containerEndpoint + uri) ? new URL(containerEndpoint + uri) : null;
  // `@host/` after the endpoint's own name would send the request to another host.
  if (url?.origin !== base.origin || url.username !== '' || !uri.startsWith('/')) {
    throw new AgentError('credentials.failed', 'the URI must be a path that starts with /');
  }
  return { keys: await readKeysAt(url), source: `ecs:${uri}`, owner: { kind: 'unknown' } };
}

async function readPodIdentity(uri: string, tokenPath: string): Promise<Credentials> {
  if (!URL.canParse(uri) || !isTrusted(new URL(uri))) {
    throw new AgentError(
      'credentials.failed',
      'AWS_CONTAINER_CREDENTIALS_FULL_URI must be https, loopback, or an address of the ECS or EKS agent',
    );
  }
  const url = new URL(uri);
  const keys = await withTokenFile(tokenPath, (token) => {
    // node:http refuses such a header with an error that is less clear.
    if (!/^[\x20-\x7e]+$/.test(token)) {
      throw new AgentError(
        'credentials.rejected',
        `the token file ${tokenPath} holds other than printable ASCII`,
      );
    }
    return readKeysAt(url, { Authorization: token });
  });
  return { keys, source: `podidentity:${showUrl(url)}`, owner: { kind: 'unknown' } };
}

async function readWebIdentity(roleArn: string, tokenPath: string, place: AwsPlace): Promise<Credentials> {
  const { keys, arn } = await assumeRoleWithWebIdentity(roleArn, tokenPath, place);
  return {
    keys,
    source: `webidentity:${roleArn}`,
    owner: arn ? { kind: 'known', arn } : { kind: 'unknown' },
  };
}

async function readInstanceRole({ metadataEndpoint }: CallerContext): Promise<Credentials> {
  const { role, keys } = await readRoleKeys(metadataEndpoint);
  return { keys, source: `metadata:${role}`, owner: { kind: 'instance-role', role } };
}

async function readProfile(name: string, files: ProfileFiles, place: AwsPlace): Promise<Credentials> {
  const found = findProfile(files, name);
  switch (found.kind) {
    case 'absent':
      throw new AgentError('credentials.profile-missing', 'no such profile');
    case 'without-keys':
      throw new AgentError(
        'credentials.profile-missing',
        'it has no aws_access_key_id with aws_secret_access_key',
      );
    case 'keys':
      return { keys: found.keys, source: found.source, owner: { kind: 'unknown' } };
    case 'indirect': {
      const keys = await readIndirectProfile(name, found.means, files, place);
      return { keys, source: `named_profile:${name}`, owner: { kind: 'unknown' } };
    }
  }
}

async function readKeysAt(url: URL, headers: Record<string, string> = {}): Promise<Keys> {
  const answer = await askLocal(url, { headers });
  if (answer.kind === 'ok') return parseKeys(answer.body);
  throw new AgentError('credentials.failed', `${showUrl(url)}: ${answer.reason}`);
}

/** Plain HTTP only where nobody else can listen, because the token travels with the request. Source: AWS SDKs, the same list. */
function isTrusted({ protocol, hostname }: URL): boolean {
  const agents = ['169.254.170.2', '169.254.170.23', '[fd00:ec2::23]', '[::1]', 'localhost'];
  return (
    protocol === 'https:' ||
    (protocol === 'http:' && (agents.includes(hostname) || /^127\.\d+\.\d+\.\d+$/.test(hostname)))
  );
}

function checkUnexpired(credentials: Credentials, nowMs: number): Credentials {
  const { expiresAtMs } = credentials.keys;
  if (expiresAtMs === null || expiresAtMs > nowMs) return credentials;
  const [expired, now] = [expiresAtMs, nowMs].map((ms) => new Date(ms).toISOString());
  throw new AgentError(
    'credentials.failed',
    `the credentials of ${credentials.source} expired at ${expired}, and the clock of this machine says ${now}`,
  );
}

/** Only our own texts are shown: a foreign one may quote a secret. */
function explain(thrown: unknown): { code: FaultCode; reason: string } {
  if (thrown instanceof AgentError) return { code: thrown.code, reason: thrown.message };
  return { code: 'internal', reason: `unexpected ${thrown instanceof Error ? thrown.name : 'error'}` };
}
