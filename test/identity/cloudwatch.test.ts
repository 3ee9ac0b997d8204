import fc from 'fast-check';
import { expect, test } from 'vitest';
import { fromErrorMessage } from '../../src/core/errors.ts';
import type { CredentialsRequest, LogEvent } from '../../src/core/identity-protocol.ts';
import { planLogGroup, planLogStream } from '../../src/identity/cloudwatch.ts';
import {
  closedEndpoint,
  type Endpoint,
  plantedSecret,
  startEndpoint,
  startMetadata,
  startSilentEndpoint,
} from './endpoints.ts';
import { forkIdentity } from './forked.ts';

const fileSystemId = 'fs-0123456789abcdef0';
const keys = { AWS_ACCESS_KEY_ID: 'AKIAIOSFODNN7EXAMPLE', AWS_SECRET_ACCESS_KEY: plantedSecret };
const credentials: CredentialsRequest = {
  awsProfile: null,
  awsCredsUri: null,
  roleArn: null,
  jwtPath: null,
};
const event: LogEvent = {
  message: `Successfully mounted ${fileSystemId}.efs.eu-central-1.amazonaws.com at /mnt/efs`,
  atMs: 1_700_000_000_123,
  logGroup: '/aws/efs/utils',
  retentionDays: 14,
  fileSystemId,
  region: 'eu-central-1',
  dnsSuffix: 'amazonaws.com',
  credentials,
};
const known = fc.option(fc.stringMatching(/^[a-z]{1,2}-[0-9a-f]{8,17}$/));

/** CloudWatch Logs, which answers these actions with an error code and all others as if it had never seen anything. */
function startLogs(errors: Record<string, string> = {}): Promise<Endpoint> {
  return startEndpoint((asked, response) => {
    const code = errors[actionOf(asked)];
    response.setHeader('content-type', 'application/x-amz-json-1.1');
    if (code === undefined) response.end('{}');
    else
      response
        .writeHead(/^(?:Service|Internal)/.test(code) ? 503 : 400)
        .end(JSON.stringify({ __type: code, message: plantedSecret }));
  });
}

const actionOf = ({ headers }: { headers: NodeJS.Dict<string | string[]> }) =>
  String(headers['x-amz-target']).split('.')[1]!;
const actionsOf = ({ asked }: Endpoint) => asked.map(actionOf);

async function openIdentity(logs: string, metadata: string = closedEndpoint) {
  const environment = { ...keys, AWS_ENDPOINT_URL_CLOUDWATCH_LOGS: logs };
  const { ask } = await forkIdentity({ environment, metadataEndpoint: metadata });
  return (change: Partial<LogEvent> = {}) => ask({ kind: 'publish', event: { ...event, ...change } });
}

test('group, retention, stream and event go out in this order, signed, as the reference names them', async () => {
  const [logs, metadata] = await Promise.all([startLogs(), startMetadata()]);
  const publish = await openIdentity(logs.url, metadata.url);

  expect(await publish()).toMatchObject({ kind: 'publish.done' });

  const stream = `${fileSystemId} - i-0123456789abcdef0 - mount.log`;
  expect(logs.asked.map((asked) => [actionOf(asked), JSON.parse(asked.body)])).toEqual([
    ['CreateLogGroup', { logGroupName: '/aws/efs/utils' }],
    ['PutRetentionPolicy', { logGroupName: '/aws/efs/utils', retentionInDays: 14 }],
    ['CreateLogStream', { logGroupName: '/aws/efs/utils', logStreamName: stream }],
    [
      'PutLogEvents',
      {
        logGroupName: '/aws/efs/utils',
        logStreamName: stream,
        logEvents: [{ timestamp: 1_700_000_000_123, message: event.message }],
      },
    ],
  ]);
  expect(logs.asked[0]!.headers.authorization).toContain('/eu-central-1/logs/aws4_request');
});

test('without retention_in_days events are kept for ever, and outside of EC2 the stream has no instance', async () => {
  const logs = await startLogs();
  const publish = await openIdentity(logs.url);

  await publish({ retentionDays: null, logGroup: '/efs/{fs_id}' });

  expect(actionsOf(logs)).toEqual([
    'CreateLogGroup',
    'DeleteRetentionPolicy',
    'CreateLogStream',
    'PutLogEvents',
  ]);
  expect(JSON.parse(logs.asked[3]!.body)).toMatchObject({
    logGroupName: `/efs/${fileSystemId}`,
    logStreamName: `${fileSystemId} - mount.log`,
  });
});

test('a group and a stream that are there already are used', async () => {
  const there = 'ResourceAlreadyExistsException';
  const logs = await startLogs({ CreateLogGroup: there, CreateLogStream: there });
  const publish = await openIdentity(logs.url);

  expect(await publish()).toMatchObject({ kind: 'publish.done' });
  expect(actionsOf(logs)).toContain('PutLogEvents');
});

test('many mounts at once make the group once', async () => {
  const logs = await startLogs();
  const publish = await openIdentity(logs.url);

  const answers = await Promise.all(Array.from({ length: 8 }, () => publish()));

  expect(answers.map(({ kind }) => kind)).toEqual(Array(8).fill('publish.done'));
  const actions = actionsOf(logs);
  expect(actions.filter((action) => action === 'CreateLogGroup')).toHaveLength(1);
  expect(actions.filter((action) => action === 'PutLogEvents')).toHaveLength(8);
});

test.each([
  ['CreateLogGroup', 'AccessDeniedException', 'AmazonElasticFileSystemsUtils'],
  ['CreateLogGroup', 'LimitExceededException', 'quota'],
  ['CreateLogGroup', 'OperationAbortedException', 'Another host'],
  ['CreateLogGroup', 'InvalidParameterException', 'log_group_name'],
  ['CreateLogGroup', 'ServiceUnavailableException', 'tries again'],
  ['CreateLogGroup', 'ThrottlingException', 'tries again'],
  ['PutRetentionPolicy', 'InvalidParameterException', 'retention_in_days'],
  ['PutRetentionPolicy', 'ResourceNotFoundException', 'deleted'],
  ['CreateLogStream', 'ResourceNotFoundException', 'deleted'],
  ['PutLogEvents', 'AccessDeniedException', 'AmazonElasticFileSystemsUtils'],
  ['PutLogEvents', 'UnrecognizedClientException', 'Allow HTTPS'],
  ['PutLogEvents', 'InternalFailure', 'Allow HTTPS'],
])('%s answered with %s ends the report and says so', async (action, code, hint) => {
  const logs = await startLogs({ [action]: code });
  const publish = await openIdentity(logs.url);

  const answer = await publish();

  if (answer.kind !== 'failed') expect.fail(JSON.stringify(answer));
  const error = fromErrorMessage(answer.error);
  expect(error).toMatchObject({ code: 'cloudwatch.failed', details: { action, reason: code } });
  expect(error.message).toMatch(new RegExp(`answered ${code} to logs:${action} \\(/aws/efs/utils\\)$`));
  expect(error.hint).toContain(hint);
  expect(actionsOf(logs).at(-1)).toBe(action);
});

test('a service that cannot be reached, and one without a word, are named', async () => {
  const unreachable = await openIdentity(closedEndpoint);
  const silent = await openIdentity(await startSilentEndpoint());

  const [refused, waited] = await Promise.all([unreachable(), silent()]);

  expect(refused).toMatchObject({
    error: {
      code: 'cloudwatch.failed',
      message: expect.stringContaining('127.0.0.1:1 gave no usable answer'),
    },
  });
  expect(waited).toMatchObject({
    error: { code: 'cloudwatch.failed', message: expect.stringContaining('logs:CreateLogGroup') },
  });
}, 20_000);

test('without credentials nothing is asked of the service', async () => {
  const logs = await startLogs();
  const { ask } = await forkIdentity({ environment: { AWS_ENDPOINT_URL_CLOUDWATCH_LOGS: logs.url } });

  expect(await ask({ kind: 'publish', event })).toMatchObject({
    kind: 'failed',
    error: { code: expect.stringMatching(/^credentials\./) },
  });
  expect(logs.asked).toEqual([]);
});

test('a stream carries what is known of file system and instance', () => {
  expect(planLogStream('fs-1234abcd', 'i-0123abcd')).toBe('fs-1234abcd - i-0123abcd - mount.log');
  expect(planLogStream('fs-1234abcd', null)).toBe('fs-1234abcd - mount.log');
  expect(planLogStream(null, 'i-0123abcd')).toBe('i-0123abcd - mount.log');
  expect(planLogStream(null, null)).toBe('default - mount.log');

  fc.assert(
    fc.property(known, known, (id, instance) => {
      const parts = planLogStream(id, instance).split(' - ');
      expect(parts.at(-1)).toBe('mount.log');
      for (const part of [id, instance]) if (part !== null) expect(parts).toContain(part);
      expect(parts).toHaveLength(Math.max(2, [id, instance].filter(Boolean).length + 1));
    }),
  );
});

test('a group name takes the file system id, or does without', () => {
  expect(planLogGroup('/efs/{fs_id}', 'fs-1234abcd')).toBe('/efs/fs-1234abcd');
  expect(planLogGroup('/efs/{fs_id}', null)).toBe('/efs');
  expect(planLogGroup('/aws/efs/utils', null)).toBe('/aws/efs/utils');

  const template = fc.array(fc.constantFrom('/', 'a', '{fs_id}', '-', '$&')).map((parts) => parts.join(''));
  fc.assert(
    fc.property(template, known, (text, id) => {
      const name = planLogGroup(text, id);
      expect(name).not.toContain('{fs_id}');
      if (id !== null) expect(name.split(id).join('{fs_id}')).toBe(text);
    }),
  );
});
