import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type AgentStage, fileSystemId, openAgentStage, waitFor } from '../support/agent-stage.ts';

const name = `${fileSystemId}.efs.us-east-1.amazonaws.com`;
const options = 'tls,mounttargetip=127.0.0.1';

let stage: AgentStage;
let servers: Server[] = [];
beforeEach(() => {
  stage = openAgentStage([23130, 23139]);
});
afterEach(async () => {
  await stage.close();
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
  servers = [];
});

/** CloudWatch Logs in the environment of whoever mounts; `errorCode` refuses everything, null says nothing at all. */
async function startLogs(errorCode: string | null = '') {
  const asked: { action: string; body: Record<string, unknown> }[] = [];
  const server = createServer(async (request, response) => {
    let text = '';
    for await (const chunk of request) text += chunk;
    asked.push({ action: String(request.headers['x-amz-target']).split('.')[1]!, body: JSON.parse(text) });
    if (errorCode === null) return;
    response.setHeader('content-type', 'application/x-amz-json-1.1');
    if (errorCode === '') response.end('{}');
    else response.writeHead(400).end(JSON.stringify({ __type: errorCode }));
  });
  servers.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  Object.assign(stage.environment, {
    AWS_ACCESS_KEY_ID: 'AKIAIOSFODNN7EXAMPLE',
    AWS_SECRET_ACCESS_KEY: 'PLANTED+secret/0123456789abcdef',
    AWS_ENDPOINT_URL_CLOUDWATCH_LOGS: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
  });
  return {
    asked,
    messages: () =>
      asked
        .filter(({ action }) => action === 'PutLogEvents')
        .map(({ body }) => (body['logEvents'] as { message: string }[])[0]!.message),
  };
}

/** A mount target, and an agent whose configuration has these lines for CloudWatch. */
async function startAgent(lines: string[]) {
  const target = await stage.startTarget();
  stage.configure(
    [],
    [
      `mount_target_port = ${target.port}`,
      'max_connections = 1',
      'metadata_endpoint = http://127.0.0.1:1',
      '[cloudwatch-log]',
      ...lines,
    ],
  );
  return stage.startAgent();
}

test('a mount that succeeded and one that failed are told to CloudWatch Logs as amazon-efs-utils does', async () => {
  const logs = await startLogs();
  await startAgent(['enabled = true', 'log_group_name = /efs/{fs_id}', 'retention_in_days = 7']);

  await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', options);
  await expect.poll(logs.messages).toHaveLength(1);
  stage.standIn('mount.nfs4', 'echo "mount.nfs4: the server says no" >&2; exit 32');
  const failed = await stage.mountEfs(`${fileSystemId}:/sub`, stage.mountPoint, '-o', options);
  await expect.poll(logs.messages).toHaveLength(2);

  expect(failed.status).toBe(32);
  const [mounted, refused] = logs.messages();
  expect(mounted).toBe(`Successfully mounted ${name} at ${stage.mountPoint}`);
  expect(refused).toMatch(/^Mount failed, .*the server says no/);
  expect(logs.asked.find(({ action }) => action === 'PutRetentionPolicy')!.body).toEqual({
    logGroupName: `/efs/${fileSystemId}`,
    retentionInDays: 7,
  });
});

test('a mount that fails before anything is opened is told too, and mount -f tells nothing', async () => {
  const logs = await startLogs();
  await startAgent(['enabled = true']);

  await stage.mountEfs(fileSystemId, stage.mountPoint, '-f', '-o', options);
  await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'tls,mounttargetip=127.0.0.1,cafile=/nowhere');
  await expect.poll(logs.messages).toHaveLength(1);

  expect(logs.messages()[0]).toMatch(/^Mount failed, .*\/nowhere/);
});

test('nothing is sent unless enabled is true', async () => {
  const logs = await startLogs();
  const agent = await startAgent(['log_group_name = /aws/efs/utils', 'retention_in_days = 14']);

  const mounted = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', options);
  await stage.status();

  expect(mounted.status).toBe(0);
  expect(logs.asked).toEqual([]);
  expect(agent.stderr()).not.toMatch(/cloudwatch\.|identity\.started/);
});

test('a CloudWatch that never answers neither delays a mount nor fails it', async () => {
  const logs = await startLogs(null);
  const agent = await startAgent(['enabled = true']);

  const mounted = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', options);

  expect(mounted).toMatchObject({ status: 0, stderr: '' });
  expect(agent.stderr()).not.toContain('cloudwatch.');
  await expect.poll(() => logs.asked.length).toBeGreaterThan(0);
  await waitFor(() => agent.stderr().includes('cloudwatch.failed'), 'the report to be given up', agent);
});

test('what CloudWatch refuses is one line in the log, however many mounts there are', async () => {
  await startLogs('AccessDeniedException');
  const agent = await startAgent(['enabled = true', '[DEFAULT]', 'logging_level = DEBUG']);
  const told = () => agent.stderr().match(/.*cloudwatch\.failed.*/g) ?? [];

  for (const part of ['a', 'b', 'c']) {
    const { status } = await stage.mountEfs(`${fileSystemId}:/${part}`, stage.mountPoint, '-o', options);
    expect(status).toBe(0);
  }
  await waitFor(() => told().length === 3, 'the refusals', agent);

  const lines = told().filter((line) => !line.includes(' debug '));
  expect(lines).toHaveLength(1);
  expect(lines[0]).toMatch(
    /warn .*code=cloudwatch\.failed .*answered AccessDeniedException to logs:CreateLogGroup/,
  );
  expect(lines[0]).toContain('AmazonElasticFileSystemsUtils');
  expect(agent.stderr()).not.toContain('PLANTED');
});

test('without a region the mount fails for its own reason, and the report is a warning', async () => {
  const logs = await startLogs();
  const agent = await startAgent(['enabled = true']);
  writeFileSync(
    stage.environment['EFS_AGENT_CONFIG']!,
    '[agent]\nmetadata_endpoint = http://127.0.0.1:1\n[cloudwatch-log]\nenabled = true\n',
  );

  const failed = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', options);
  await waitFor(() => agent.stderr().includes('cloudwatch.failed'), 'the warning', agent);

  expect(failed.status).toBe(1);
  expect(failed.stderr).toContain('[region.unknown]');
  expect(agent.stderr()).toMatch(/warn .*cloudwatch\.failed code=region\.unknown/);
  expect(logs.asked).toEqual([]);
});
