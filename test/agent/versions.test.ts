import { once } from 'node:events';
import { connect } from 'node:net';
import { join, resolve } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { type AgentStage, fileSystemId, openAgentStage } from '../support/agent-stage.ts';
import { buildNextVersion, removeBundle } from '../support/bundle.ts';
import { askOnce, startProbe } from '../support/echo.ts';
import { canUnshare } from '../support/mount-table.ts';

const nextVersion = '99.0.0';
const thisAgent = resolve('dist/agent.cjs');
let nextAgent = '';
let stage: AgentStage;
beforeAll(async () => {
  nextAgent = await buildNextVersion(nextVersion);
});
afterAll(() => removeBundle(nextAgent));
beforeEach(() => {
  stage = openAgentStage([23220, 23229]);
});
afterEach(() => stage.close());

test.skipIf(!canUnshare)(
  'an upgrade to a version with other protocols and back refuses no connection and loses none',
  async () => {
    await stage.useMountTable();
    await stage.startTarget();
    const first = await stage.startAgent();
    await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'tls,mounttargetip=127.0.0.1');
    const { version, mounts } = await stage.status();
    const port = mounts[0]!.port!;
    const probe = startProbe(port);

    const upgrade = await takeOver(nextAgent);
    await first.ended;
    const upgraded = await stage.settledStatus();
    const throughNext = await askOnce(port, 'through the next version');
    const downgrade = await takeOver(thisAgent);
    await expect.poll(async () => (await stage.status()).version).toBe(version);
    const downgraded = await stage.settledStatus();
    const throughThis = await askOnce(port, 'and back');
    const failures = await probe.stop();

    expect(upgrade).toMatchObject({ kind: 'taken-over', pid: upgraded.pid });
    expect(upgraded).toMatchObject({ version: nextVersion, mounts: [{ state: 'mounted', port }] });
    expect(downgrade).toMatchObject({ kind: 'taken-over', pid: downgraded.pid });
    expect(downgraded).toMatchObject({ version, mounts: [{ state: 'mounted', port }] });
    expect([throughNext, throughThis]).toEqual(['through the next version', 'and back']);
    expect(failures).toEqual([]);
  },
  120_000,
);

test.skipIf(!canUnshare)(
  'what the next version has recorded and the crash of its agent are no loss to this one',
  async () => {
    await stage.useMountTable();
    await stage.startTarget();
    await stage.startAgent();
    await takeOver(nextAgent);
    await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'tls,mounttargetip=127.0.0.1');
    const { pid, version, mounts } = await stage.status();

    process.kill(pid!, 'SIGKILL');
    await expect.poll(() => stage.efsAgent('status').then(({ status }) => status)).toBe(3);
    await stage.startAgent();

    expect(version).toBe(nextVersion);
    const restored = await stage.status();
    expect(restored.version).not.toBe(nextVersion);
    expect(restored.mounts).toMatchObject([{ mountPoint: stage.mountPoint, port: mounts[0]!.port }]);
    expect(await askOnce(mounts[0]!.port!, 'still there')).toBe('still there');
  },
  120_000,
);

/** As `efs-agent agent --takeover` of that version asks. */
async function takeOver(program: string): Promise<unknown> {
  const socket = connect(join(stage.runtimeDir, 'control.sock'));
  socket.write(`${JSON.stringify({ kind: 'takeover', version: 1, program })}\n`);
  const [answer] = (await once(socket, 'data')) as [Buffer];
  socket.destroy();
  return JSON.parse(answer.toString());
}
