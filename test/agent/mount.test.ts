import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  type AgentStage,
  fileSystemId,
  openAgentStage,
  type Running,
  waitFor,
} from '../support/agent-stage.ts';
import { askForMount } from '../support/control-conversation.ts';
import { childrenOf, scriptOf } from '../support/processes.ts';

const role = 'arn:aws:iam::111122223333:role/efs-client';
const iamOnly = {
  Version: '2012-10-17',
  Statement: [
    {
      Effect: 'Allow',
      Principal: { AWS: role },
      Action: [
        'elasticfilesystem:ClientMount',
        'elasticfilesystem:ClientWrite',
        'elasticfilesystem:ClientRootAccess',
      ],
      Resource: '*',
      Condition: { Bool: { 'elasticfilesystem:AccessedViaMountTarget': 'true' } },
    },
  ],
};
const direct = 'mounttargetip=127.0.0.1';
const hasGanesha = hasProgram('ganesha.nfsd');

let stage: AgentStage;
beforeEach(() => {
  stage = openAgentStage([23070, 23099]);
});
afterEach(() => stage.close());

test.skipIf(!hasGanesha)(
  'a mount with iam is silent, and mount.nfs4 gets the options of the reference',
  async () => {
    await stage.startLocalTarget(iamOnly);
    await stage.startAgent();

    const mounted = await stage.mountEfs(
      fileSystemId,
      stage.mountPoint,
      '-o',
      `rw,_netdev,tls,iam,${direct}`,
    );

    expect(mounted).toEqual({ status: 0, stdout: '', stderr: '' });
    const [mount] = (await stage.status()).mounts;
    expect(mount).toMatchObject({
      fileSystemId,
      mountPoint: stage.mountPoint,
      state: 'mounted',
      address: '127.0.0.1',
    });
    expect(mount?.identity?.source).toBe('metadata:efs-client');
    await expect
      .poll(async () => (await stage.status()).mounts[0]?.identity?.arn)
      .toBe('arn:aws:sts::111122223333:assumed-role/efs-client/i-0123456789abcdef0');
    expect(stage.nfsCalls()).toEqual([
      `127.0.0.1:/ ${stage.mountPoint} -o rw,_netdev,nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport,port=${mount?.port}`,
    ]);
  },
);

test.skipIf(!hasGanesha)('a refusal with iam names the role that asked and the action it needs', async () => {
  await stage.startLocalTarget({
    ...iamOnly,
    Statement: [{ ...iamOnly.Statement[0], Principal: { AWS: `${role}-other` } }],
  });
  await stage.startAgent();
  stage.standIn(
    'mount.nfs4',
    'echo "mount.nfs4: access denied by server while mounting 127.0.0.1:/" >&2; exit 32',
  );

  const refused = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', `tls,iam,${direct}`);

  expect(refused.status).toBe(32);
  expect(refused.stderr).toContain(
    `${fileSystemId} refused arn:aws:sts::111122223333:assumed-role/efs-client/i-0123456789abcdef0`,
  );
  expect(refused.stderr).toContain('elasticfilesystem:ClientMount');
  expect(stage.stateFiles()).toEqual([]);
});

test.skipIf(!hasGanesha)(
  'neither secret key nor session token is in a file, an argument list or an environment of ours',
  async () => {
    const target = await stage.startLocalTarget(iamOnly);
    const agent = await stage.startAgent();
    await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', `tls,iam,${direct}`);

    const { secretKey, token } = await readCredentials(target.metadataEndpoint);
    const places = [agent.stderr(), ...readTree(stage.runtimeDir), ...processTexts(agent)].join('\n');

    expect(secretKey.length).toBeGreaterThan(20);
    expect(places).toContain(stage.runtimeDir);
    expect(places).not.toContain(secretKey);
    expect(places).not.toContain(token.slice(0, 60));
  },
);

test('after a mount that is not IAM, only agent and worker run', async () => {
  await stage.startTarget();
  const agent = await stage.startAgent();
  await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', `tls,${direct}`);

  const children = childrenOf(agent.child.pid!).map(scriptOf);

  expect(children).toEqual([expect.stringMatching(/\/worker\.cjs$/)]);
});

test('a caller that is killed during the mount, with its mount.nfs4, leaves no tunnel and no state', async () => {
  await stage.startTarget();
  await stage.startAgent();
  stage.standIn('mount.nfs4', `echo $$ > ${stage.directory}/started; exec sleep 60`);
  const caller = stage.start(join(stage.directory, 'mount.efs'), [
    fileSystemId,
    stage.mountPoint,
    '-o',
    `tls,${direct}`,
  ]);
  const started = join(stage.directory, 'started');
  await waitFor(
    () => existsSync(started) && readFileSync(started, 'utf8') !== '',
    'mount.nfs4 to start',
    caller,
  );

  caller.child.kill('SIGKILL');
  process.kill(Number(readFileSync(join(stage.directory, 'started'), 'utf8')), 'SIGKILL');

  await expect.poll(async () => (await stage.status()).mounts).toEqual([]);
  expect(stage.stateFiles()).toEqual([]);
});

test('a mount right after one that was broken off is not told that another command is mounting there', async () => {
  await stage.startTarget();
  await stage.startAgent();

  for (let round = 0; round < 10; round += 1) {
    const opening = await askForMount(stage, '/mnt');
    opening.hangUp();
    const mounting = await askForMount(stage, '/mnt');
    await mounting.ready();
    mounting.hangUp();
  }

  await expect.poll(async () => (await stage.status()).mounts).toEqual([]);
  expect(stage.stateFiles()).toEqual([]);
});

test('a hundred mounts and unmounts leave no descriptor, process, port or file behind', {
  timeout: 600_000,
}, async () => {
  await stage.startTarget();
  const agent = await stage.startAgent();
  await cycle();
  const { pid: worker } = (await stage.status()).worker;
  const before = leftovers(agent.child.pid!, worker!);

  for (let count = 0; count < 100; count += 1) await cycle();

  // A connection that just closes may be among those before, none may be among those after.
  await expect
    .poll(() => leftovers(agent.child.pid!, worker!), { timeout: 60_000 })
    .toSatisfy((after: Record<string, number>) =>
      Object.entries(after).every(([kind, count]) => count <= (before[kind] ?? 0)),
    );
  expect(stage.stateFiles()).toEqual([]);
  expect(stage.nfsCalls()).toHaveLength(101);
});

async function cycle(): Promise<void> {
  const mounted = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', `tls,${direct}`);
  const unmounted = await stage.umountEfs(stage.mountPoint);
  expect(mounted.status).toBe(0);
  // The kernel has no such mount: the agent may have seen that by itself, a moment before it is told.
  if (unmounted.status !== 0) expect(unmounted.stderr).toContain('[mountpoint.not-mounted]');
}

function leftovers(agent: number, worker: number): Record<string, number> {
  return {
    ...descriptors('agent', agent),
    ...descriptors('worker', worker),
    children: childrenOf(agent).length,
    listeners: listeners(),
  };
}

/** Open descriptors by kind: their numbers change, their count must not. */
function descriptors(owner: string, pid: number): Record<string, number> {
  const kinds: Record<string, number> = {};
  for (const descriptor of readdirSync(`/proc/${pid}/fd`)) {
    const kind = `${owner}: ${readlinkSync(`/proc/${pid}/fd/${descriptor}`).split(':')[0]}`;
    kinds[kind] = (kinds[kind] ?? 0) + 1;
  }
  return kinds;
}

function listeners(): number {
  const lines = readFileSync('/proc/net/tcp', 'utf8').split('\n').slice(1);
  return lines.filter((line) => {
    const [, local, , state] = line.trim().split(/\s+/);
    const port = Number.parseInt(local?.split(':')[1] ?? '0', 16);
    return state === '0A' && port >= 23070 && port <= 23099;
  }).length;
}

/** Command lines and environments of the agent and its children. */
function processTexts(agent: Running): string[] {
  const pids = [agent.child.pid!, ...childrenOf(agent.child.pid!)];
  return pids.flatMap((pid) =>
    ['cmdline', 'environ'].map((name) => readFileSync(`/proc/${pid}/${name}`, 'latin1')),
  );
}

function readTree(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => readFileSync(join(entry.parentPath, entry.name), 'latin1'));
}

async function readCredentials(endpoint: string): Promise<{ secretKey: string; token: string }> {
  const put = { method: 'PUT', headers: { 'x-aws-ec2-metadata-token-ttl-seconds': '60' } };
  const session = await (await fetch(`${endpoint}/latest/api/token`, put)).text();
  const url = `${endpoint}/latest/meta-data/iam/security-credentials/efs-client`;
  const answer = await fetch(url, { headers: { 'x-aws-ec2-metadata-token': session } });
  const credentials = (await answer.json()) as { SecretAccessKey: string; Token: string };
  return { secretKey: credentials.SecretAccessKey, token: credentials.Token };
}

function hasProgram(name: string): boolean {
  try {
    execFileSync('sh', ['-c', `command -v ${name}`]);
    return true;
  } catch {
    return false;
  }
}
