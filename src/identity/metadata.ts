import { AgentError, asAgentError, faults } from '../core/errors.ts';
import type { InstanceFacts } from '../core/identity-protocol.ts';
import { type Keys, parseKeys, parseObject } from './keys.ts';
import { askLocal, type LocalAnswer, openPatience, showUrl } from './local-http.ts';

/**
 * Where the instance metadata service answers: where the caller's environment says, else at its IPv4 or IPv6 address;
 * null when the caller's environment says not to ask it.
 *
 * @param configured the address that the configuration names.
 *
 * Errors: none. Source: AWS SDKs and Tools reference guide, "IMDS credential provider".
 */
export function locateMetadata(
  environment: Readonly<Record<string, string>>,
  configured: string | null,
): string | null {
  if (environment['AWS_EC2_METADATA_DISABLED']?.toLowerCase() === 'true') return null;
  if (configured !== null) return configured;
  const isIpv6 = environment['AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE']?.toLowerCase() === 'ipv6';
  return (
    environment['AWS_EC2_METADATA_SERVICE_ENDPOINT'] ||
    (isIpv6 ? 'http://[fd00:ec2::254]' : 'http://169.254.169.254')
  );
}

const budgetMs = 5_000;
const rolePath = '/latest/meta-data/iam/security-credentials/';

/**
 * The temporary keys of the role that is attached to this instance, by IMDSv2.
 *
 * Units: ends within five seconds. Errors: `credentials.missing` without a role, `credentials.metadata-silent` without
 * an answer, `credentials.rejected` and `credentials.failed` as the service answers; messages are phrases for a list.
 * Source: specification 4.3 number 7 and 4.4; the fall-back to IMDSv1 is left out on purpose.
 */
export async function readRoleKeys(endpoint: string | null): Promise<{ role: string; keys: Keys }> {
  const { ask, bodyOf } = await openMetadata(endpoint);
  const listed = await ask(rolePath);
  // The name is a line of text: read as JSON, a role named 42 would become a number (specification 12 item 24).
  const role = listed.kind === 'ok' ? (listed.body.trim().split('\n')[0] ?? '').trim() : '';
  if (role === '' && (listed.kind === 'ok' || (listed.kind === 'status' && listed.status === 404))) {
    throw new AgentError('credentials.missing', 'no role is attached to this instance');
  }
  bodyOf(listed);
  const keys = parseKeys(bodyOf(await ask(rolePath + encodeURIComponent(role))));
  return { role, keys };
}

/**
 * The identity that the service sees when this instance's role connects: `arn:aws:sts::<account>:assumed-role/<role>/<instance id>`.
 *
 * Units: ends within five seconds. Errors: `metadata.unavailable`.
 */
export async function readRoleArn(endpoint: string | null, role: string): Promise<string> {
  return reportUnavailable("the instance role's identity", async () => {
    const { ask, bodyOf } = await openMetadata(endpoint);
    const [info, instanceId] = await Promise.all([
      ask('/latest/meta-data/iam/info'),
      ask('/latest/meta-data/instance-id'),
    ]);
    const profileArn = parseObject(bodyOf(info))['InstanceProfileArn'];
    const [, partition, , , account] = typeof profileArn === 'string' ? profileArn.split(':') : [];
    if (!account) throw new AgentError('metadata.unavailable', 'the answer lacks InstanceProfileArn');
    return `arn:${partition}:sts::${account}:assumed-role/${role}/${bodyOf(instanceId).trim()}`;
  });
}

/**
 * Where this instance runs, from its identity document, by IMDSv2.
 *
 * Units: ends within five seconds. Errors: `metadata.unavailable`. Source: specification 4.4.
 */
export async function readInstance(endpoint: string | null): Promise<InstanceFacts> {
  return reportUnavailable('where this instance runs', async () => {
    const { ask, bodyOf } = await openMetadata(endpoint);
    const document = parseObject(bodyOf(await ask('/latest/dynamic/instance-identity/document')));
    const field = (name: string) => {
      const value = document[name];
      if (typeof value === 'string' && value !== '') return value;
      throw new AgentError('metadata.unavailable', `the answer lacks ${name}`);
    };
    return {
      region: field('region'),
      availabilityZone: field('availabilityZone'),
      instanceId: field('instanceId'),
      accountId: field('accountId'),
      availabilityZoneId: null,
    };
  });
}

/**
 * The id of the zone this instance runs in, for example `use1-az1`.
 *
 * Units: ends within five seconds. Errors: `metadata.unavailable`. Source: specification 3.5.
 */
export async function readZoneId(endpoint: string | null): Promise<string> {
  return reportUnavailable('the id of the availability zone', async () => {
    const { ask, bodyOf } = await openMetadata(endpoint);
    const zoneId = bodyOf(await ask('/latest/meta-data/placement/availability-zone-id')).trim();
    if (/^[a-z0-9-]{1,32}$/.test(zoneId)) return zoneId;
    throw new AgentError('metadata.unavailable', 'the answer is no zone id');
  });
}

interface Metadata {
  ask(path: string): Promise<LocalAnswer>;
  /** Errors: `credentials.metadata-silent`, `credentials.failed` for anything else than an answer. */
  bodyOf(answer: LocalAnswer): string;
}

/** Gets a session token; the budget is for everything together. */
async function openMetadata(endpoint: string | null): Promise<Metadata> {
  if (endpoint === null) {
    throw new AgentError('credentials.missing', 'not asked, because AWS_EC2_METADATA_DISABLED is true');
  }
  const budgetEnd = new AbortController();
  openPatience(budgetEnd, budgetMs);
  const budget = budgetEnd.signal;
  const bodyOf = (answer: LocalAnswer): string => {
    if (answer.kind === 'ok') return answer.body;
    const where = showUrl(new URL(endpoint)).replace(/\/$/, '');
    throw new AgentError(
      answer.kind === 'none' ? 'credentials.metadata-silent' : 'credentials.failed',
      `instance metadata at ${where}: ${answer.reason}`,
    );
  };
  const token = await askLocal(locate('/latest/api/token', endpoint), {
    method: 'PUT',
    headers: { 'X-aws-ec2-metadata-token-ttl-seconds': '21600' },
    budget,
  });
  const headers = { 'X-aws-ec2-metadata-token': bodyOf(token).trim() };
  if (!/^[\x21-\x7e]+$/.test(headers['X-aws-ec2-metadata-token'])) {
    throw new AgentError('credentials.failed', `${endpoint} answered with an unusable session token`);
  }
  return { ask: (path) => askLocal(locate(path, endpoint), { headers, budget }), bodyOf };
}

function locate(path: string, endpoint: string): URL {
  if (URL.canParse(path, endpoint)) return new URL(path, endpoint);
  throw new AgentError('credentials.failed', 'the address of the instance metadata service is malformed');
}

async function reportUnavailable<T>(wanted: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (thrown) {
    const { code, message } = asAgentError(thrown);
    throw new AgentError(
      'metadata.unavailable',
      `cannot learn ${wanted} from the metadata service: ${message}`,
      code === 'credentials.metadata-silent' ? { hint: faults[code].hint } : {},
      thrown,
    );
  }
}
