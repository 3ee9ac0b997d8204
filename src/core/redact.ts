/** Stands in the place of what was taken out. */
export const removed = '[removed]';

/** Names of settings, variables and fields whose value is nobody's business. */
const secretName =
  /secret|token|passw|authorization|signature|private_?key|credential_?process|^aws_session/i;

/** What looks like a secret wherever it stands; the first group, if there is one, stays. */
const secretShapes: readonly RegExp[] = [
  /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g,
  // A JSON web token.
  /\beyJ[\w-]{8,}\.[\w-]+(?:\.[\w-]*)?/g,
  // User and password in a URL.
  /(\b[a-z][a-z0-9+.-]*:\/\/)[^\s/@:]*:[^\s/@]+(?=@)/gi,
  /(\bX-Amz-(?:Security-Token|Signature|Credential)=)[^&\s"']+/gi,
  /(\bauthorization:\s*)[^\n]+/gi,
  // name = value, name: value, "name":"value", as configuration, environment and logs have it.
  /(\b["']?[\w.-]*(?:secret|token|passw(?:or)?d|signature|private_?key)[\w.-]*["']?\s*[:=]\s*["']?)(?!\[removed\])[^\s"',;&}]+/gi,
  // A secret access key: forty characters of base64 with letters of both cases and digits.
  /(?<![\w/+=-])(?=[^\s]*[a-z])(?=[^\s]*[A-Z])(?=[^\s]*\d)[A-Za-z0-9/+]{40}(?![\w/+=-])/g,
  // A session token: nothing else is that long without a space.
  /[A-Za-z0-9+/=_-]{180,}/g,
];

/** Shorter ones stand in too many other words; what is a secret is longer. */
const shortestKnown = 8;

/**
 * Makes a function that takes secrets out of a text: those that are known, however they are written there, and
 * whatever looks like one. Rather too much than too little.
 *
 * @param known secrets themselves, such as the values of the caller's environment.
 */
export function createRedactor(known: readonly string[]): (text: string) => string {
  const spellings = [...new Set(known.filter((one) => one.length >= shortestKnown).flatMap(spellingsOf))];
  // The longest first: one may be part of another.
  spellings.sort((one, other) => other.length - one.length);
  return (text) => {
    let clean = text;
    for (const spelling of spellings) clean = clean.replaceAll(spelling, removed);
    for (const shape of secretShapes) {
      clean = clean.replace(shape, (_whole, kept: unknown) =>
        typeof kept === 'string' ? kept + removed : removed,
      );
    }
    return clean;
  };
}

/** Takes secrets out of everything in a JSON value, and the values of fields that are secret by their name. */
export function redactValue(value: unknown, redact: (text: string) => string): unknown {
  if (typeof value === 'string') return redact(value);
  if (Array.isArray(value)) return value.map((one) => redactValue(one, redact));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, one]) => [
      redact(name),
      secretName.test(name) && typeof one === 'string' && one !== '' ? removed : redactValue(one, redact),
    ]),
  );
}

/** The values of an INI text whose keys are secret by their name: those of credentials files. */
export function findSecretValues(text: string): string[] {
  return [...text.matchAll(/^[ \t]*([\w.-]+)[ \t]*[=:][ \t]*(.+?)[ \t]*$/gm)]
    .filter(([, name]) => secretName.test(name!))
    .map(([, , value]) => value!);
}

function spellingsOf(secret: string): string[] {
  const bytes = new TextEncoder().encode(secret);
  const base64 = btoa(String.fromCharCode(...bytes));
  return [
    secret,
    encodeURIComponent(secret),
    JSON.stringify(secret).slice(1, -1),
    base64,
    base64.replace(/=+$/, ''),
  ];
}
