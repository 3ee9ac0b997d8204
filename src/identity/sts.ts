import { readFile } from 'node:fs/promises';
import { AgentError } from '../core/errors.ts';
import { type Keys, showCode } from './keys.ts';

/** Which STS to ask, and the environment that may name another one. */
export interface StsPlace {
  region: string;
  /** `sts.<region>.<suffix>`. */
  dnsSuffix: string;
  environment: Readonly<Record<string, string>>;
}

const webIdentityBudgetMs = 5_000;
const callerBudgetMs = 3_000;
const sessionName = 'efs-mount-helper';
// Suffixes of dual-stack names, under which STS does not answer (specification 4.3).
const stsSuffixes: Readonly<Record<string, string>> = {
  'on.aws': 'amazonaws.com',
  'on.amazonwebservices.com.cn': 'amazonaws.com.cn',
};

/**
 * Exchanges the web identity token of a file for temporary keys of a role; `arn` is the assumed role's.
 *
 * Units: ends within five seconds. Errors: `credentials.rejected` for an unreadable token file or a refusal of STS, with
 * its error code; `credentials.failed` without an answer; messages are phrases for a list. Source: specification 4.3 number 6.
 */
export async function assumeRoleWithWebIdentity(
  roleArn: string,
  tokenPath: string,
  place: StsPlace,
): Promise<{ keys: Keys; arn: string | null }> {
  const token = await readTokenFile(tokenPath);
  const { STSClient, AssumeRoleWithWebIdentityCommand } = await import('@aws-sdk/client-sts');
  const client = new STSClient(configure(place, webIdentityBudgetMs));
  try {
    const { Credentials, AssumedRoleUser } = await client.send(
      new AssumeRoleWithWebIdentityCommand({
        RoleArn: roleArn,
        RoleSessionName: sessionName,
        WebIdentityToken: token,
      }),
      { abortSignal: AbortSignal.timeout(webIdentityBudgetMs) },
    );
    const { AccessKeyId, SecretAccessKey, SessionToken, Expiration } = Credentials ?? {};
    if (!AccessKeyId || !SecretAccessKey || !SessionToken) {
      throw new AgentError('credentials.failed', `${showSts(place)} gave an answer without keys`);
    }
    const keys = {
      accessKeyId: AccessKeyId,
      secretAccessKey: SecretAccessKey,
      sessionToken: SessionToken,
      expiresAtMs: Expiration?.getTime() ?? null,
    };
    return { keys, arn: AssumedRoleUser?.Arn ?? null };
  } catch (thrown) {
    throw translateSdkError(thrown, showSts(place));
  } finally {
    client.destroy();
  }
}

/**
 * Whose keys these are, by GetCallerIdentity.
 *
 * Units: ends within three seconds. Errors: `credentials.rejected` with the error code of STS; `credentials.failed` without an answer.
 */
export async function readCallerArn(keys: Keys, place: StsPlace): Promise<string | null> {
  const { STSClient, GetCallerIdentityCommand } = await import('@aws-sdk/client-sts');
  const { accessKeyId, secretAccessKey, sessionToken } = keys;
  const credentials = { accessKeyId, secretAccessKey, ...(sessionToken ? { sessionToken } : {}) };
  const client = new STSClient({ ...configure(place, callerBudgetMs), credentials });
  try {
    const answer = await client.send(new GetCallerIdentityCommand({}), {
      abortSignal: AbortSignal.timeout(callerBudgetMs),
    });
    return answer.Arn ?? null;
  } catch (thrown) {
    throw translateSdkError(thrown, showSts(place));
  } finally {
    client.destroy();
  }
}

/**
 * The content of a token file, without the line end that editors add.
 *
 * Errors: `credentials.rejected` if it cannot be read, is empty, or has a line end inside.
 */
export async function readTokenFile(path: string): Promise<string> {
  const refuse = (reason: string) =>
    new AgentError('credentials.rejected', `the token file ${path} ${reason}`);
  let token: string;
  try {
    token = (await readFile(path, 'utf8')).trim();
  } catch (thrown) {
    throw refuse(`cannot be read: ${(thrown as NodeJS.ErrnoException).code}`);
  }
  if (token === '') throw refuse('is empty');
  if (/[\r\n]/.test(token)) throw refuse('has a line end inside the token');
  return token;
}

/**
 * An error of the AWS SDK as one phrase that holds its error code and never its text, which may quote what was sent.
 *
 * Errors: none; gives `credentials.rejected` if a service refused, else `credentials.failed`.
 */
export function translateSdkError(thrown: unknown, asked: string): AgentError {
  if (thrown instanceof AgentError) return thrown;
  const { name, code, $fault } = thrown as { name?: unknown; code?: unknown; $fault?: unknown };
  if (typeof name === 'string' && $fault !== undefined) {
    const fault = $fault === 'client' ? 'credentials.rejected' : 'credentials.failed';
    return new AgentError(fault, `${asked} answered ${showCode(name)}`, {}, thrown);
  }
  const reason =
    name === 'AbortError' || name === 'TimeoutError' ? 'in time' : `(${showCode(String(code ?? name))})`;
  return new AgentError('credentials.failed', `${asked} gave no usable answer ${reason}`, {}, thrown);
}

/**
 * The address of STS: the one the caller's environment names, else `sts.<region>.<suffix>`.
 *
 * Errors: none. Source: specification 4.3; AWS SDKs and Tools reference guide, "Service-specific endpoints".
 */
export function locateSts({ region, dnsSuffix, environment }: StsPlace): string {
  const fips = environment['AWS_USE_FIPS_ENDPOINT']?.toLowerCase() === 'true' ? '-fips' : '';
  return (
    environment['AWS_ENDPOINT_URL_STS'] ??
    environment['AWS_ENDPOINT_URL'] ??
    `https://sts${fips}.${region}.${stsSuffixes[dnsSuffix] ?? dnsSuffix}`
  );
}

function configure(place: StsPlace, budgetMs: number) {
  return {
    region: place.region,
    endpoint: locateSts(place),
    // The endpoint says both already; the SDK refuses to be told twice.
    useFipsEndpoint: false,
    useDualstackEndpoint: false,
    maxAttempts: 2,
    requestHandler: { connectionTimeout: budgetMs / 2, requestTimeout: budgetMs },
  };
}

function showSts(place: StsPlace): string {
  const endpoint = locateSts(place);
  return URL.canParse(endpoint) ? `STS at ${new URL(endpoint).host}` : 'STS at a malformed address';
}
