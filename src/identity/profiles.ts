import { readFile } from 'node:fs/promises';
import { AgentError } from '../core/errors.ts';
import type { Keys } from './keys.ts';

/** Profile name -> key -> value. */
export type Profiles = ReadonlyMap<string, ReadonlyMap<string, string>>;

/** The two files of the AWS command line, as far as they exist. */
export interface ProfileFiles {
  credentialsPath: string;
  configPath: string;
  credentials: Profiles;
  config: Profiles;
}

/** What the files say about one profile. */
export type ProfileLookup =
  | { kind: 'keys'; source: string; keys: Keys }
  /** The profile tells how to get credentials; `means` are the keys that say so. */
  | { kind: 'indirect'; means: string[] }
  | { kind: 'without-keys' }
  | { kind: 'absent' };

const indirections = [
  'role_arn',
  'sso_session',
  'sso_start_url',
  'credential_process',
  'web_identity_token_file',
  'login_session',
];

/**
 * Reads `.aws/credentials` and `.aws/config` of a home directory; a file that does not exist counts as empty.
 *
 * Errors: `credentials.failed` for a file that cannot be read.
 */
export async function readProfileFiles(home: string): Promise<ProfileFiles> {
  const credentialsPath = `${home}/.aws/credentials`;
  const configPath = `${home}/.aws/config`;
  const [credentials, config] = await Promise.all([readProfiles(credentialsPath), readProfiles(configPath)]);
  return { credentialsPath, configPath, credentials, config };
}

/**
 * Parses the INI dialect of the AWS command line; `[p]` and `[profile p]` are the same profile.
 *
 * Errors: none; a line that is neither section nor assignment is skipped, as the AWS tools do. Source: AWS SDKs and
 * Tools reference guide, "Shared config and credentials files".
 */
export function parseProfiles(text: string): Profiles {
  const profiles = new Map<string, Map<string, string>>();
  let profile: Map<string, string> | null = null;
  let isNested = false;
  for (const line of text.replace(/^\uFEFF/, '').split(/\r?\n/)) {
    const content = line.replace(/(^|\s)[#;].*$/, '').trim();
    const section = /^\[([^\]]*)\]$/.exec(content);
    const equals = content.indexOf('=');
    if (section) {
      const name = parseProfileName(section[1]!);
      profile = profiles.get(name) ?? new Map();
      profiles.set(name, profile);
      isNested = false;
    } else if (profile && equals > 0 && !(isNested && /^\s/.test(line))) {
      const value = content.slice(equals + 1).trim();
      profile.set(content.slice(0, equals).trim().toLowerCase(), value);
      // `s3 =` opens a group of indented settings that are not the profile's own.
      isNested = value === '';
    }
  }
  return profiles;
}

/** Whether a profile named `default` holds an access key: only then is it used unasked (specification 4.2). */
export function hasDefaultKeys(files: ProfileFiles): boolean {
  return [files.credentials, files.config].some((file) => file.get('default')?.get('aws_access_key_id'));
}

/** Looks a profile up: keys in the credentials file, then in the config file, then other means. Source: specification 4.3. */
export function findProfile(files: ProfileFiles, name: string): ProfileLookup {
  for (const [file, source] of [
    [files.credentials, 'credentials'],
    [files.config, 'config'],
  ] as const) {
    const profile = file.get(name);
    const accessKeyId = profile?.get('aws_access_key_id');
    const secretAccessKey = profile?.get('aws_secret_access_key');
    if (accessKeyId && secretAccessKey) {
      const sessionToken = profile?.get('aws_session_token') || null;
      const keys = { accessKeyId, secretAccessKey, sessionToken, expiresAtMs: null };
      return { kind: 'keys', source: `${source}:${name}`, keys };
    }
  }
  const found = [files.credentials.get(name), files.config.get(name)];
  const means = indirections.filter((key) => found.some((profile) => profile?.get(key)));
  if (means.length > 0) return { kind: 'indirect', means };
  return found.some((profile) => profile) ? { kind: 'without-keys' } : { kind: 'absent' };
}

async function readProfiles(path: string): Promise<Profiles> {
  try {
    return parseProfiles(await readFile(path, 'utf8'));
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return new Map();
    throw new AgentError('credentials.failed', `cannot read ${path}: ${code}`, { path }, thrown);
  }
}

function parseProfileName(section: string): string {
  const name = section.trim().replace(/^profile\s+/, '');
  return /^(["']).*\1$/.test(name) ? name.slice(1, -1) : name;
}
