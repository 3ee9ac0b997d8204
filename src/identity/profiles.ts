import { stat } from 'node:fs/promises';
import { AgentError } from '../core/errors.ts';
import { readRegularFile } from '../host/regular-file.ts';
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
 * Reads `.aws/credentials` and `.aws/config` of a home directory, or the files that `AWS_SHARED_CREDENTIALS_FILE` and
 * `AWS_CONFIG_FILE` name instead; a file that does not exist counts as empty.
 *
 * Errors: `credentials.failed` for a file that cannot be read. Source: AWS SDKs and Tools reference guide, "Location of the shared files".
 */
export async function readProfileFiles(
  home: string,
  environment: Readonly<Record<string, string>>,
): Promise<ProfileFiles> {
  const locate = (variable: string, usual: string) =>
    (environment[variable] || usual).replace(/^~(?=\/)/, home);
  const credentialsPath = locate('AWS_SHARED_CREDENTIALS_FILE', '~/.aws/credentials');
  const configPath = locate('AWS_CONFIG_FILE', '~/.aws/config');
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
  const means = indirections.filter((key) => profileValue(files, name, key) !== null);
  if (means.length > 0) return { kind: 'indirect', means };
  return files.credentials.has(name) || files.config.has(name)
    ? { kind: 'without-keys' }
    : { kind: 'absent' };
}

/** What a key of a profile says, in the credentials file or else the config file; null when neither has it. */
export function profileValue(files: ProfileFiles, profile: string, key: string): string | null {
  return files.credentials.get(profile)?.get(key) || files.config.get(profile)?.get(key) || null;
}

async function readProfiles(path: string): Promise<Profiles> {
  try {
    return parseProfiles(await readSettled(path));
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return new Map();
    throw new AgentError('credentials.failed', `cannot read ${path}: ${code}`, { path }, thrown);
  }
}

/** Reads a file again if it changed meanwhile: half of a file that is being rewritten may name a key without its secret. */
async function readSettled(path: string): Promise<string> {
  const look = async () => {
    const { ino, size, mtimeNs } = await stat(path, { bigint: true });
    return `${ino} ${size} ${mtimeNs}`;
  };
  let before = await look();
  for (let left = 3; ; left -= 1) {
    const text = await readRegularFile(path);
    const after = await look();
    if (after === before || left === 1) return text;
    before = after;
  }
}

function parseProfileName(section: string): string {
  const name = section.trim().replace(/^profile\s+/, '');
  return /^(["']).*\1$/.test(name) ? name.slice(1, -1) : name;
}
