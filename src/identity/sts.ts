import type { STSClient } from '@aws-sdk/client-sts';
import { AgentError } from '../core/errors.ts';
import { type AwsPlace, configureClient, showService, translateSdkError } from './aws-api.ts';
import type { Keys } from './keys.ts';
import { withTokenFile } from './token-file.ts';

const webIdentityBudgetMs = 5_000;
const callerBudgetMs = 3_000;
const sessionName = 'efs-mount-helper';

/** The keys of an assumed role; `arn` is the role's, as far as it was told. */
interface RoleKeys {
  keys: Keys;
  arn: string | null;
}

/**
 * Exchanges the web identity token of a file for temporary keys of a role; `arn` is the assumed role's.
 *
 * Units: ends within five seconds, ten if the token was rotated meanwhile. Errors: `credentials.rejected` for an unreadable token
 * file or a refusal of STS, with its error code; `credentials.failed` without an answer; messages are phrases for a list.
 * Source: specification 4.3 number 6.
 */
export function assumeRoleWithWebIdentity(
  roleArn: string,
  tokenPath: string,
  place: AwsPlace,
): Promise<RoleKeys> {
  return withTokenFile(tokenPath, (token) => assumeRole(roleArn, token, place));
}

/**
 * Whose keys these are, by GetCallerIdentity.
 *
 * Units: ends within three seconds. Errors: `credentials.rejected` with the error code of STS; `credentials.failed` without an answer.
 */
export async function readCallerArn(keys: Keys, place: AwsPlace): Promise<string | null> {
  const { STSClient, GetCallerIdentityCommand } = await import('@aws-sdk/client-sts');
  const client = new STSClient(configureClient('STS', place, callerBudgetMs, keys));
  try {
    const answer = await client.send(new GetCallerIdentityCommand({}), {
      abortSignal: AbortSignal.timeout(callerBudgetMs),
    });
    return answer.Arn ?? null;
  } catch (thrown) {
    throw translateSdkError(thrown, showService('STS', place));
  } finally {
    client.destroy();
  }
}

async function assumeRole(roleArn: string, token: string, place: AwsPlace): Promise<RoleKeys> {
  const { STSClient } = await import('@aws-sdk/client-sts');
  const client = new STSClient(configureClient('STS', place, webIdentityBudgetMs));
  try {
    return await requestRole(client, roleArn, token, showService('STS', place));
  } finally {
    client.destroy();
  }
}

/** Asks this client. Errors: as above; `asked` is who that is, for the message. */
export async function requestRole(
  client: STSClient,
  roleArn: string,
  token: string,
  asked: string,
): Promise<RoleKeys> {
  const { AssumeRoleWithWebIdentityCommand } = await import('@aws-sdk/client-sts');
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
      throw new AgentError('credentials.failed', `${asked} gave an answer without keys`);
    }
    const keys = {
      accessKeyId: AccessKeyId,
      secretAccessKey: SecretAccessKey,
      sessionToken: SessionToken,
      expiresAtMs: Expiration?.getTime() ?? null,
    };
    return { keys, arn: AssumedRoleUser?.Arn ?? null };
  } catch (thrown) {
    throw translateSdkError(thrown, asked);
  }
}
