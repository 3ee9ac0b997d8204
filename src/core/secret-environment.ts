/** Variables of the caller that are secret: kept in memory, never in a state file, a log, or the environment of a process. */
export const secretEnvironment: readonly string[] = [
  'AWS_ACCESS_KEY_ID',
  'AWS_SECRET_ACCESS_KEY',
  'AWS_SESSION_TOKEN',
];

/** Stands for `AWS_ACCESS_KEY_ID` where the secrets were left out: whoever restores the mount must not take another identity. */
export const forgottenKeyId = '(not kept)';

/** The variables without their secrets, for the disk; `forgottenKeyId` says that there were some. */
export function forgetSecrets(environment: Readonly<Record<string, string>>): Record<string, string> {
  const entries = Object.entries(environment);
  const kept = Object.fromEntries(entries.filter(([name]) => !secretEnvironment.includes(name)));
  const hadKeys = entries.some(([name]) => name === 'AWS_ACCESS_KEY_ID' || name === 'AWS_SECRET_ACCESS_KEY');
  return hadKeys ? { ...kept, AWS_ACCESS_KEY_ID: forgottenKeyId } : kept;
}
