import { setTimeout } from 'node:timers/promises';
import { AgentError, type FaultCode } from '../core/errors.ts';
import type { CredentialsRequest } from '../core/identity-protocol.ts';
import { type Keys, parseKeys } from './keys.ts';
import { askLocal, showUrl } from './local-http.ts';
import { readRoleKeys } from './metadata.ts';
import { findProfile, hasDefaultKeys, type ProfileFiles, readProfileFiles } from './profiles.ts';
import { assumeRoleWithWebIdentity, readTokenFile, type StsPlace, translateSdkError } from './sts.ts';

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
  metadataEndpoint: string;
  containerEndpoint: string;
}

/** Where the ECS agent hands out the credentials of tasks. */
export const defaultContainerEndpoint = 'http://169.254.170.2';

const profileBudgetMs = 20_000;
const notFound =
  'AWS Access Key ID and Secret Access Key are not found in AWS credentials file, in AWS config file, ' +
  'from ECS credentials relative uri, or from the instance security credentials service';

/**
 * Finds the credentials of a mount: the source the user named and no other, else the first of the chain that has some.
 *
 * The chain: the `default` profile if it holds an access key (and then nothing else), ECS, EKS pod identity, web identity, instance role.
 * Units: `nowMs` epoch milliseconds, for expiry. Errors: a `credentials.*` code; the message names every source that was tried and
 * why it had none, and holds no secret. Source: specification 4.2 and 4.3.
 */
export async function findCredentials(
  request: CredentialsRequest,
  context: CallerContext,
  place: StsPlace,
  nowMs: number,
): Promise<Credentials> {
  if (request.awsCredsUri !== null) return readNamedUri(request.awsCredsUri, context, nowMs);
  const named = request.awsProfile ?? (context.environment['AWS_PROFILE'] || null);
  const files = await readProfileFiles(context.home);
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

async function readNamedProfile(
  name: string,
  files: ProfileFiles,
  place: StsPlace,
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
      { profile: name },
      thrown,
    );
  }
}

async function readChain(
  files: ProfileFiles,
  context: CallerContext,
  place: StsPlace,
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
      // Whoever sets a variable means that source: its failure is the one to repair, the instance role is only the rest.
      blamed ??= code;
      tried.push(`${source.title}: ${reason}`);
    }
  }
  throw new AgentError(blamed ?? 'credentials.missing', `${notFound}. Tried: ${tried.join('; ')}`);
}

type ChainLink =
  | { kind: 'unset'; title: string; variables: string[] }
  | { kind: 'set'; title: string; read: () => Promise<Credentials> };

function planChain(context: CallerContext, place: StsPlace): ChainLink[] {
  const link = (
    title: string,
    variables: string[],
    read: (...values: string[]) => Promise<Credentials>,
  ): ChainLink => {
    const values = variables.map((variable) => context.environment[variable] ?? '');
    return values.every((value) => value !== '')
      ? { kind: 'set', title, read: () => read(...values) }
      : { kind: 'unset', title, variables };
  };
  return [
    link('ECS', ['AWS_CONTAINER_CREDENTIALS_RELATIVE_URI'], (uri) => readContainer(uri!, context)),
    link(
      'EKS pod identity',
      ['AWS_CONTAINER_CREDENTIALS_FULL_URI', 'AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE'],
      (uri, tokenPath) => readPodIdentity(uri!, tokenPath!),
    ),
    link('web identity', ['AWS_ROLE_ARN', 'AWS_WEB_IDENTITY_TOKEN_FILE'], (roleArn, tokenPath) =>
      readWebIdentity(roleArn!, tokenPath!, place),
    ),
    link('instance role', [], () => readInstanceRole(context)),
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
  const token = await readTokenFile(tokenPath);
  // node:http refuses such a header with an error that is less clear.
  if (!/^[\x20-\x7e]+$/.test(token)) {
    throw new AgentError(
      'credentials.rejected',
      `the token file ${tokenPath} holds other than printable ASCII`,
    );
  }
  const keys = await readKeysAt(url, { Authorization: token });
  return { keys, source: `podidentity:${showUrl(url)}`, owner: { kind: 'unknown' } };
}

async function readWebIdentity(roleArn: string, tokenPath: string, place: StsPlace): Promise<Credentials> {
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

async function readProfile(name: string, files: ProfileFiles, place: StsPlace): Promise<Credentials> {
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

async function readIndirectProfile(
  profile: string,
  means: string[],
  files: ProfileFiles,
  { region }: StsPlace,
): Promise<Keys> {
  const { fromIni } = await import('@aws-sdk/credential-providers');
  const provide = fromIni({
    profile,
    filepath: files.credentialsPath,
    configFilepath: files.configPath,
    // The process may outlive an edit of the files.
    ignoreCache: true,
    clientConfig: { region },
    parentClientConfig: { region },
  });
  try {
    const keys = await within(profileBudgetMs, provide());
    return {
      accessKeyId: keys.accessKeyId,
      secretAccessKey: keys.secretAccessKey,
      sessionToken: keys.sessionToken ?? null,
      expiresAtMs: keys.expiration?.getTime() ?? null,
    };
  } catch (thrown) {
    throw translateSdkError(thrown, `its ${means.join(', ')}`);
  }
}

/** The SDK offers no deadline of its own, and a `credential_process` may hang. */
async function within<T>(budgetMs: number, work: Promise<T>): Promise<T> {
  const budget = new AbortController();
  const late = setTimeout(budgetMs, undefined, { signal: budget.signal }).then(() => {
    throw new AgentError('credentials.failed', `no answer within ${budgetMs / 1000} s`);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    budget.abort();
    late.catch(() => undefined);
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
