import { randomBytes, randomInt } from 'node:crypto';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { KnownCredentials } from './client-certificate.ts';
import type { Principal } from './policy.ts';

/** Temporary credentials as the metadata service hands them out. */
export interface IssuedCredentials extends KnownCredentials {
  sessionToken: string;
  issuedAtMs: number;
  expiresAtMs: number;
  principal: Extract<Principal, { kind: 'assumed-role' }>;
}

/** Hands out temporary credentials and knows them again. */
export interface CredentialIssuer {
  /** The current credentials of a session of the role; new ones when more than half of their life is over. */
  issue(sessionName: string): IssuedCredentials;
  find(accessKeyId: string): IssuedCredentials | undefined;
}

export interface IssuerOptions {
  partition: string;
  accountId: string;
  roleName: string;
  lifetimeMs: number;
  /** Where issued credentials are kept, readable by the owner alone. */
  stateDirectory: string;
  nowMs: () => number;
}

const keyCharacters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';

/**
 * Opens the issuer of a role's credentials.
 *
 * What it issued is kept in the state directory until it expires, because a client goes on using its
 * credentials when the mount target is started anew. They are good for nothing but this mount target.
 */
export function openCredentialIssuer(options: IssuerOptions): CredentialIssuer {
  const file = join(options.stateDirectory, 'credentials.json');
  const known = new Map(readKnown(file).map((one) => [one.accessKeyId, one]));
  const { partition, accountId, roleName } = options;

  const issueNew = (sessionArn: string, nowMs: number): IssuedCredentials => {
    for (const [accessKeyId, { expiresAtMs }] of known) if (expiresAtMs < nowMs) known.delete(accessKeyId);
    const issued: IssuedCredentials = {
      accessKeyId: `ASIA${Array.from({ length: 16 }, () => keyCharacters[randomInt(keyCharacters.length)]).join('')}`,
      secretAccessKey: randomBytes(30).toString('base64'),
      // As long, and with the same characters, as the service's: "/", "+" and "=" must survive every encoding.
      sessionToken: `IQoJb3JpZ2luX2Vj${randomBytes(620).toString('base64')}`,
      issuedAtMs: nowMs,
      // Whole seconds, as in the answers.
      expiresAtMs: Math.floor((nowMs + options.lifetimeMs) / 1_000) * 1_000,
      principal: {
        kind: 'assumed-role',
        accountId,
        sessionArn,
        roleArn: `arn:${partition}:iam::${accountId}:role/${roleName}`,
      },
    };
    known.set(issued.accessKeyId, issued);
    writeFileSync(`${file}.new`, JSON.stringify([...known.values()]), { mode: 0o600 });
    renameSync(`${file}.new`, file);
    return issued;
  };

  return {
    issue: (sessionName) => {
      const nowMs = options.nowMs();
      const sessionArn = `arn:${partition}:sts::${accountId}:assumed-role/${roleName}/${sessionName}`;
      const isFresh = (one: IssuedCredentials) =>
        one.principal.sessionArn === sessionArn &&
        nowMs >= one.issuedAtMs &&
        nowMs < one.issuedAtMs + (one.expiresAtMs - one.issuedAtMs) / 2;
      return [...known.values()].findLast(isFresh) ?? issueNew(sessionArn, nowMs);
    },
    find: (accessKeyId) => known.get(accessKeyId),
  };
}

function readKnown(file: string): IssuedCredentials[] {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as IssuedCredentials[];
  } catch {
    // None yet, or not whole: clients then fetch new ones, as they do when theirs expire.
    return [];
  }
}
