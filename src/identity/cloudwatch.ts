import { AgentError } from '../core/errors.ts';
import type { LogEvent } from '../core/identity-protocol.ts';
import { type AwsPlace, configureClient, showService, translateSdkError } from './aws-api.ts';
import { type Keys, showCode } from './keys.ts';

/** Who publishes; `signal` ends it. */
export interface Publisher {
  keys: Keys;
  place: AwsPlace;
  signal: AbortSignal;
}

/** A log group and how long it keeps events. */
export interface LogGroup {
  name: string;
  /** Null = for ever. */
  retentionDays: number | null;
}

/** For everything together. Units: milliseconds. */
export const publishBudgetMs = 6_000;

const service = 'CLOUDWATCH_LOGS';

/** What to do about an error code of CloudWatch Logs; any other code speaks for itself. */
const hints: Readonly<Record<string, string>> = {
  AccessDeniedException: 'Attach the managed policy AmazonElasticFileSystemsUtils, or set enabled = false.',
  LimitExceededException: 'Delete log groups that nobody needs, or ask for a higher quota.',
  OperationAbortedException:
    'Another host changed the log group at the same moment; nothing needs to be done.',
  InvalidParameterException:
    'Check log_group_name and retention_in_days; only some numbers of days are allowed.',
  ResourceNotFoundException: 'The log group was deleted meanwhile; the next mount makes it again.',
  ServiceUnavailableException: 'Nothing needs to be done; the next mount tries again.',
  ThrottlingException: 'Nothing needs to be done; the next mount tries again.',
};

/**
 * The log group of a file system: `{fs_id}` of the template is its id, or is left out with its slash when that is not known.
 *
 * Errors: none. Source: specification 9.
 */
export function planLogGroup(template: string, fileSystemId: string | null): string {
  return template.replaceAll(fileSystemId === null ? /\/?\{fs_id\}/g : '{fs_id}', () => fileSystemId ?? '');
}

/** The log stream of a mount; what is not known is left out. Errors: none. Source: specification 9. */
export function planLogStream(fileSystemId: string | null, instanceId: string | null): string {
  const known = [fileSystemId, instanceId].filter((part) => part !== null);
  return [...(known.length === 0 ? ['default'] : known), 'mount.log'].join(' - ');
}

/**
 * Makes a log group if it is not there, and sets how long it keeps events.
 *
 * Errors: `cloudwatch.failed` with the error code of the service.
 */
export async function prepareLogGroup(
  publisher: Publisher,
  { name, retentionDays }: LogGroup,
): Promise<void> {
  const {
    CloudWatchLogsClient,
    CreateLogGroupCommand,
    DeleteRetentionPolicyCommand,
    PutRetentionPolicyCommand,
  } = await import('@aws-sdk/client-cloudwatch-logs');
  const client = new CloudWatchLogsClient(configure(publisher));
  const abortSignal = publisher.signal;
  const logGroupName = name;
  try {
    await ask(publisher, 'CreateLogGroup', name, async () =>
      client.send(new CreateLogGroupCommand({ logGroupName }), { abortSignal }).catch(unlessThere),
    );
    if (retentionDays === null) {
      await ask(publisher, 'DeleteRetentionPolicy', name, () =>
        client.send(new DeleteRetentionPolicyCommand({ logGroupName }), { abortSignal }),
      );
    } else {
      await ask(publisher, 'PutRetentionPolicy', name, () =>
        client.send(new PutRetentionPolicyCommand({ logGroupName, retentionInDays: retentionDays }), {
          abortSignal,
        }),
      );
    }
  } finally {
    client.destroy();
  }
}

/**
 * Writes one event into a stream, which is made if it is not there.
 *
 * Errors: `cloudwatch.failed` with the error code of the service. Source: specification 9; no sequence token is asked
 * for, since the service has taken events without one since 2023.
 */
export async function putLogEvent(
  publisher: Publisher,
  { group, stream }: { group: string; stream: string },
  { message, atMs }: Pick<LogEvent, 'message' | 'atMs'>,
): Promise<void> {
  const { CloudWatchLogsClient, CreateLogStreamCommand, PutLogEventsCommand } = await import(
    '@aws-sdk/client-cloudwatch-logs'
  );
  const client = new CloudWatchLogsClient(configure(publisher));
  const abortSignal = publisher.signal;
  const where = { logGroupName: group, logStreamName: stream };
  try {
    await ask(publisher, 'CreateLogStream', group, async () =>
      client.send(new CreateLogStreamCommand(where), { abortSignal }).catch(unlessThere),
    );
    await ask(publisher, 'PutLogEvents', group, () =>
      client.send(new PutLogEventsCommand({ ...where, logEvents: [{ timestamp: atMs, message }] }), {
        abortSignal,
      }),
    );
  } finally {
    client.destroy();
  }
}

function configure({ place, keys }: Publisher) {
  return configureClient(service, place, publishBudgetMs, keys);
}

async function ask(
  { place }: Publisher,
  action: string,
  group: string,
  run: () => Promise<unknown>,
): Promise<void> {
  try {
    await run();
  } catch (thrown) {
    const code = nameOf(thrown);
    const hint = hints[code];
    const { message } = translateSdkError(thrown, showService(service, place));
    throw new AgentError(
      'cloudwatch.failed',
      `${message} to logs:${action} (${group})`,
      { action, reason: code, ...(hint !== undefined && { hint }) },
      thrown,
    );
  }
}

/** What is to be made may be there already. */
function unlessThere(thrown: unknown): void {
  if (nameOf(thrown) !== 'ResourceAlreadyExistsException') throw thrown;
}

function nameOf(thrown: unknown): string {
  const { name } = thrown as { name?: unknown };
  return typeof name === 'string' ? showCode(name) : '';
}
