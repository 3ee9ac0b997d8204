import { AgentError } from '../core/errors.ts';
import { answerLimit } from './answer-limit.ts';
import { type Keys, showCode } from './keys.ts';

/** Which services to ask, and the environment that may name other ones. */
export interface AwsPlace {
  region: string;
  /** `sts.<region>.<suffix>`. */
  dnsSuffix: string;
  environment: Readonly<Record<string, string>>;
}

/** A service of AWS, as `AWS_ENDPOINT_URL_<service>` spells it. */
export type AwsService = 'STS' | 'EFS' | 'EC2' | 'CLOUDWATCH_LOGS';

const hostLabels: Readonly<Record<AwsService, string>> = {
  STS: 'sts',
  EFS: 'elasticfilesystem',
  EC2: 'ec2',
  CLOUDWATCH_LOGS: 'logs',
};
// Suffixes of dual-stack names, under which these services do not answer (specification 4.3).
const apiSuffixes: Readonly<Record<string, string>> = {
  'on.aws': 'amazonaws.com',
  'on.amazonwebservices.com.cn': 'amazonaws.com.cn',
};

/**
 * The address of a service: the one the caller's environment names, else `<service>.<region>.<suffix>`.
 *
 * Errors: none. Source: specification 4.3; AWS SDKs and Tools reference guide, "Service-specific endpoints".
 */
export function locateService(service: AwsService, { region, dnsSuffix, environment }: AwsPlace): string {
  const fips = environment['AWS_USE_FIPS_ENDPOINT']?.toLowerCase() === 'true' ? '-fips' : '';
  return (
    environment[`AWS_ENDPOINT_URL_${service}`] ??
    environment['AWS_ENDPOINT_URL'] ??
    `https://${hostLabels[service]}${fips}.${region}.${apiSuffixes[dnsSuffix] ?? dnsSuffix}`
  );
}

/** The settings of an SDK client; without keys for a request that is not signed. Units: `budgetMs` milliseconds for one try; the caller bounds all tries together. */
export function configureClient(
  service: AwsService,
  place: AwsPlace,
  budgetMs: number,
  keys: Keys | null = null,
) {
  const { accessKeyId = '', secretAccessKey = '', sessionToken = null } = keys ?? {};
  return {
    ...(keys && { credentials: { accessKeyId, secretAccessKey, ...(sessionToken && { sessionToken }) } }),
    region: place.region,
    endpoint: locateService(service, place),
    // The endpoint says both already; the SDK refuses to be told twice.
    useFipsEndpoint: false,
    useDualstackEndpoint: false,
    maxAttempts: 2,
    extensions: [answerLimit],
    requestHandler: { connectionTimeout: budgetMs / 2, requestTimeout: budgetMs },
  };
}

/** A service and its host, for a message. */
export function showService(service: AwsService, place: AwsPlace): string {
  const endpoint = locateService(service, place);
  return URL.canParse(endpoint)
    ? `${service} at ${new URL(endpoint).host}`
    : `${service} at a malformed address`;
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
