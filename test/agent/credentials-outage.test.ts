import { afterEach, beforeEach, expect, test } from 'vitest';
import { keysJson, startEndpoint } from '../identity/endpoints.ts';
import { type AgentStage, fileSystemId, openAgentStage } from '../support/agent-stage.ts';
import { openEcho } from '../support/echo.ts';
import { canUnshare } from '../support/mount-table.ts';

let stage: AgentStage;
beforeEach(() => {
  stage = openAgentStage([23200, 23209]);
});
afterEach(() => stage.close());

test.skipIf(!canUnshare)(
  'an agent that starts while nobody gives credentials shows an alarm, keeps the kernel waiting, and heals by itself',
  async () => {
    const metadata = await startMetadataThatMayFail();
    await stage.useMountTable();
    const target = await stage.startTarget();
    stage.configure(
      [],
      [`metadata_endpoint = ${metadata.url}`, `mount_target_port = ${target.port}`, 'max_connections = 1'],
    );
    const first = await stage.startAgent();
    const mounted = await stage.mountEfs(
      fileSystemId,
      stage.mountPoint,
      '-o',
      'tls,iam,mounttargetip=127.0.0.1',
    );
    const port = (await stage.status()).mounts[0]!.port!;
    const connected = await openEcho(port);
    await connected.ask('before');

    metadata.fail(true);
    first.child.kill('SIGKILL');
    await first.ended;
    const agent = await stage.startAgent();
    const waiting = await openEcho(port);
    const answer = waiting.ask('answered when it is over');
    await expect
      .poll(async () => (await stage.status()).mounts[0]?.alarm)
      .toMatchObject({
        code: expect.stringMatching(/^(credentials|metadata)\./),
        sinceMs: expect.any(Number),
      });
    const { stdout: shown } = await stage.efsAgent('status');
    const during = await connected.ask('and goes on');
    metadata.fail(false);

    expect(mounted).toMatchObject({ status: 0, stderr: '' });
    expect(during).toBe('and goes on');
    expect(shown).toContain('ALARM: no new certificate for');
    expect(await answer).toBe('answered when it is over');
    await expect.poll(async () => (await stage.status()).mounts[0]?.alarm).toBeNull();
    expect(agent.stderr()).toContain('credentials.outage');
    expect(agent.stderr()).toContain('credentials.recovered');
    connected.close();
    waiting.close();
  },
);

async function startMetadataThatMayFail() {
  const role = '/latest/meta-data/iam/security-credentials/';
  const answers = new Map([
    ['/latest/api/token', 'session-token'],
    [role, 'efs-client'],
    [`${role}efs-client`, keysJson('ASIAEXAMPLE')],
  ]);
  let fails = false;
  const { url } = await startEndpoint(({ path }, response) => {
    const answer = fails ? undefined : answers.get(path);
    if (answer === undefined) response.writeHead(fails ? 503 : 404).end();
    else response.end(answer);
  });
  return {
    url,
    fail(failing: boolean) {
      fails = failing;
    },
  };
}
