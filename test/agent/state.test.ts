import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type AgentStage, fileSystemId, openAgentStage, type Running } from '../support/agent-stage.ts';
import { askOnce, openEcho } from '../support/echo.ts';
import { canUnshare, type MountTable, succeeds } from '../support/mount-table.ts';

const options = ['-o', 'tls,mounttargetip=127.0.0.1'];
let stage: AgentStage;
let undo: (() => void)[] = [];
beforeEach(() => {
  stage = openAgentStage([23180, 23199]);
});
afterEach(async () => {
  for (const step of undo.reverse()) step();
  undo = [];
  await stage.close();
});

test.skipIf(!canUnshare).each(['mounts', 'mounts.copy'])(
  'a mount goes on after a crash although its record in %s was cut off',
  async (place) => {
    const { port, agent } = await mountAndCrash();
    const [file] = recordsIn(place);
    truncateSync(file!, 100);

    const next = await stage.startAgent();

    expect(await askOnce(port, 'still there')).toBe('still there');
    expect((await stage.status()).mounts).toMatchObject([{ mountPoint: stage.mountPoint, port }]);
    expect(next.stderr()).toContain('state-file.damaged');
    expect(readFileSync(`${file}.damaged`).length).toBe(100);
    expect(recordsIn(place)).toEqual([file]);
    expect(agent.stderr()).not.toContain('damaged');
  },
);

test.skipIf(!canUnshare)(
  'nobody gets the port of a living mount whose record is lost, until it is unmounted',
  async () => {
    const { port, table } = await mountAndCrash();
    for (const place of ['mounts', 'mounts.copy']) writeFileSync(recordsIn(place)[0]!, '{"version":2');
    const other = join(stage.directory, 'other');
    mkdirSync(other);

    const next = await stage.startAgent();
    const refused = await stage.mountEfs(fileSystemId, other, '-o', `${options[1]},tlsport=${port}`);

    expect(next.stderr()).toContain('mount.record-lost');
    expect(refused.stderr).toContain('[port.taken]');
    expect((await stage.status()).mounts).toEqual([]);
    table.unmount(stage.mountPoint);
    await restartAgent(next);
    expect(await stage.mountEfs(fileSystemId, other, '-o', `${options[1]},tlsport=${port}`)).toMatchObject({
      status: 0,
    });
  },
);

test.for([
  {
    what: 'full',
    spoil: () => fill(stage.runtimeDir),
    mend: () => execFileSync('rm', [join(stage.runtimeDir, 'filler')]),
  },
  {
    what: 'read-only',
    spoil: () => execFileSync('mount', ['-o', 'remount,ro', stage.runtimeDir]),
    mend: () => execFileSync('mount', ['-o', 'remount,rw', stage.runtimeDir]),
  },
])(
  'a runtime directory that is $what stops a new mount with a clear error, and nothing that is mounted',
  async (disk) => {
    if (!mountTmpfs(stage.runtimeDir)) return;
    const table = await stage.useMountTable();
    await stage.startTarget();
    const agent = await stage.startAgent();
    await stage.mountEfs(fileSystemId, stage.mountPoint, ...options);
    const port = (await stage.status()).mounts[0]!.port!;
    const open = await openEcho(port);
    const other = join(stage.directory, 'other');
    mkdirSync(other);

    disk.spoil();
    const refused = await stage.mountEfs(fileSystemId, other, ...options);
    const answer = await open.ask('goes on');
    const takeover = await stage.efsAgent('agent', '--takeover');
    await agent.ended;
    const afterTakeover = await askOnce(port, 'still there');
    disk.mend();
    const mounted = await stage.mountEfs(fileSystemId, other, ...options);

    expect(refused.status).toBe(2);
    expect(refused.stderr).toContain('[runtime-dir.unusable]');
    expect(refused.stderr).toContain(stage.runtimeDir);
    expect(table.mountPoints()).toEqual([stage.mountPoint, other]);
    expect(answer).toBe('goes on');
    expect(takeover).toMatchObject({ status: 0 });
    expect(afterTakeover).toBe('still there');
    expect(mounted).toMatchObject({ status: 0, stderr: '' });
    open.close();
    process.kill((await stage.status()).pid!, 'SIGTERM');
  },
);

async function mountAndCrash(): Promise<{ port: number; agent: Running; table: MountTable }> {
  const table = await stage.useMountTable();
  await stage.startTarget();
  const agent = await stage.startAgent();
  await stage.mountEfs(fileSystemId, stage.mountPoint, ...options);
  const port = (await stage.status()).mounts[0]!.port!;
  agent.child.kill('SIGKILL');
  await agent.ended;
  return { port, agent, table };
}

async function restartAgent(agent: Running): Promise<void> {
  agent.child.kill('SIGTERM');
  await agent.ended;
  await stage.startAgent();
}

function recordsIn(place: string): string[] {
  const directory = join(stage.runtimeDir, place);
  return readdirSync(directory)
    .filter((name) => name.endsWith('.json'))
    .map((name) => join(directory, name));
}

/** As small as a runtime directory can be; whoever may not mount has no such disk. */
function mountTmpfs(directory: string): boolean {
  mkdirSync(directory);
  if (!succeeds('mount', '-t', 'tmpfs', '-o', 'size=64k', 'efs-agent-test', directory)) return false;
  undo.push(() => execFileSync('umount', ['-l', directory]));
  return true;
}

function fill(directory: string): void {
  try {
    execFileSync('dd', ['if=/dev/zero', `of=${join(directory, 'filler')}`, 'bs=4k'], { stdio: 'ignore' });
  } catch {
    // Full, as it should be.
  }
}
