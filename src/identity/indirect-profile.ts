import { setTimeout } from 'node:timers/promises';
import { AgentError } from '../core/errors.ts';
import { secretEnvironment } from '../core/secret-environment.ts';
import { answerLimit } from './answer-limit.ts';
import { type AwsPlace, translateSdkError } from './aws-api.ts';
import type { Keys } from './keys.ts';
import { type ProfileFiles, profileValue } from './profiles.ts';

const budgetMs = 20_000;

/**
 * The keys of a profile that only says how to get some: an assumed role, SSO, a web identity, or a program.
 *
 * @param means the keys of the profile that say so, for the message.
 *
 * Units: ends within twenty seconds. Errors: `credentials.rejected` if a service refused, else `credentials.failed`; a phrase for a list.
 */
export async function readIndirectProfile(
  profile: string,
  means: string[],
  files: ProfileFiles,
  place: AwsPlace,
): Promise<Keys> {
  const { fromIni } = await import('@aws-sdk/credential-providers');
  const { region, environment } = place;
  const provide = fromIni({
    profile,
    filepath: files.credentialsPath,
    configFilepath: files.configPath,
    // The process may outlive an edit of the files.
    ignoreCache: true,
    clientConfig: { region, extensions: [answerLimit] },
    parentClientConfig: { region, extensions: [answerLimit] },
  });
  try {
    const keys = await withEnvironmentKeys(profile, files, environment, () => within(budgetMs, provide()));
    return {
      accessKeyId: keys.accessKeyId,
      secretAccessKey: keys.secretAccessKey,
      sessionToken: keys.sessionToken ?? null,
      expiresAtMs: keys.expiration?.getTime() ?? null,
    };
  } catch (thrown) {
    const { code, message } = translateSdkError(thrown, `its ${means.join(', ')}`);
    const hint = means.some((key) => key.startsWith('sso_'))
      ? { hint: `Sign in as root: aws sso login --profile ${profile}.` }
      : {};
    throw new AgentError(code, message, hint, thrown);
  }
}

let lastTurn: Promise<unknown> = Promise.resolve();

/**
 * Puts the caller's keys into this process's environment for a profile with `credential_source = Environment`, and only as long as
 * that takes: the SDK looks for them there, and so would every `credential_process`. Where a profile does so, all take turns.
 */
function withEnvironmentKeys<T>(
  profile: string,
  files: ProfileFiles,
  environment: Readonly<Record<string, string>>,
  work: () => Promise<T>,
): Promise<T> {
  const names = [...files.credentials.keys(), ...files.config.keys()];
  if (!names.some((name) => isFromEnvironment(name, files))) return work();
  const secrets = Object.entries(environment).filter(([name]) => secretEnvironment.includes(name));
  const turn = lastTurn.then(async () => {
    if (!endsInEnvironment(profile, files)) return work();
    Object.assign(process.env, Object.fromEntries(secrets));
    try {
      return await work();
    } finally {
      for (const name of secretEnvironment) delete process.env[name];
    }
  });
  lastTurn = turn.catch(() => undefined);
  return turn;
}

/** Follows `source_profile` to the profile whose own keys assume the first role. */
function endsInEnvironment(profile: string, files: ProfileFiles): boolean {
  const seen = new Set<string>();
  let name: string | null = profile;
  while (name !== null && !seen.has(name)) {
    if (isFromEnvironment(name, files)) return true;
    seen.add(name);
    name = profileValue(files, name, 'source_profile');
  }
  return false;
}

function isFromEnvironment(profile: string, files: ProfileFiles): boolean {
  return profileValue(files, profile, 'credential_source') === 'Environment';
}

/** The SDK offers no deadline of its own, and a `credential_process` may hang. */
async function within<T>(limitMs: number, work: Promise<T>): Promise<T> {
  const budget = new AbortController();
  const late = setTimeout(limitMs, undefined, { signal: budget.signal }).then(() => {
    throw new AgentError('credentials.failed', `no answer within ${limitMs / 1000} s`);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    budget.abort();
    late.catch(() => undefined);
  }
}
