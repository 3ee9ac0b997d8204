import { AgentError } from '../core/errors.ts';

/** An access key. Never logged, never sent to the agent. */
export interface Keys {
  accessKeyId: string;
  secretAccessKey: string;
  /** Null for long-lived keys. */
  sessionToken: string | null;
  /** Epoch milliseconds; null for long-lived keys. */
  expiresAtMs: number | null;
}

/**
 * Reads the JSON in which instance metadata, ECS and EKS hand out temporary credentials.
 *
 * Errors: `credentials.rejected` if the service says it could not assume the role, else `credentials.failed`; neither quotes the text.
 * Source: specification 4.3; Amazon EC2 user guide, "Retrieve security credentials from instance metadata".
 */
export function parseKeys(text: string): Keys {
  const answer = parseObject(text);
  const code = answer['Code'];
  if (typeof code === 'string' && code !== 'Success') {
    throw new AgentError('credentials.rejected', `the service answered ${showCode(code)}`);
  }
  const { AccessKeyId, SecretAccessKey, Token, Expiration } = answer;
  if (!isText(AccessKeyId) || !isText(SecretAccessKey) || !isText(Token)) {
    throw new AgentError('credentials.failed', 'the answer lacks AccessKeyId, SecretAccessKey or Token');
  }
  const expiresAtMs = isText(Expiration) ? Date.parse(Expiration) : null;
  if (Number.isNaN(expiresAtMs))
    throw new AgentError('credentials.failed', 'the answer has an unreadable Expiration');
  return { accessKeyId: AccessKeyId, secretAccessKey: SecretAccessKey, sessionToken: Token, expiresAtMs };
}

/** A JSON object. Errors: `credentials.failed`, which does not quote the text. */
export function parseObject(text: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>;
  } catch {
    // JSON.parse quotes what it could not read.
  }
  throw new AgentError('credentials.failed', 'the answer is no JSON object');
}

/** An error code of a service or of Node (`EAI_AGAIN`) as it may be shown: a short word, or nothing of it. */
export function showCode(code: string): string {
  return /^[A-Za-z][A-Za-z0-9._]{0,63}$/.test(code) ? code : 'an error';
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && value !== '';
}
