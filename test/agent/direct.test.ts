import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type AgentStage, fileSystemId, openAgentStage } from '../support/agent-stage.ts';

let stage: AgentStage;
let server: Server;
let port: number;
beforeEach(async () => {
  stage = openAgentStage([23100, 23109]);
  server = createServer((socket) => socket.destroy());
  server.listen({ port: 0, host: '::', ipv6Only: false });
  await once(server, 'listening');
  port = (server.address() as AddressInfo).port;
  stage.configure([], [`mount_target_port = ${port}`]);
  await stage.startAgent();
});
afterEach(async () => {
  await new Promise((resolve) => server.close(resolve));
  await stage.close();
});

test.each([
  ['127.0.0.1', '127.0.0.1'],
  ['::1', '[::1]'],
])(
  'without tls mount.nfs4 goes to the mount target at %s itself, and status says so',
  async (address, source) => {
    const mounted = await stage.mountEfs(
      `${fileSystemId}:/app`,
      stage.mountPoint,
      '-o',
      `mounttargetip=${address},ro`,
    );

    expect(mounted).toEqual({ status: 0, stdout: '', stderr: '' });
    expect(stage.nfsCalls()).toEqual([
      `${source}:/app ${stage.mountPoint} -o ro,nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport,port=${port}`,
    ]);
    expect((await stage.status()).mounts).toMatchObject([
      {
        fileSystemId,
        path: '/app',
        mountPoint: stage.mountPoint,
        tls: false,
        port: null,
        address,
        sessions: 0,
      },
    ]);
    expect((await stage.efsAgent('status')).stdout).toContain(
      `${address}, /app, no tunnel: not encrypted, as tls was not given`,
    );
    expect(stage.stateFiles()).toEqual([expect.stringMatching(/\.direct\.json$/)]);
  },
);

test('a mount without tls that is unmounted leaves no record', async () => {
  await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'mounttargetip=127.0.0.1');

  const ended = await stage.umountEfs(stage.mountPoint);

  expect(ended).toEqual({ status: 0, stdout: '', stderr: '' });
  expect((await stage.status()).mounts).toEqual([]);
  expect(stage.stateFiles()).toEqual([]);
});

test('a mount target that does not answer is named before mount.nfs4 is silent for minutes', async () => {
  await new Promise((resolve) => server.close(resolve));

  const ended = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'mounttargetip=127.0.0.1');
  server.listen(0);

  expect(ended.status).toBe(32);
  expect(ended.stderr).toContain(
    `Cannot connect to file system mount target ip address 127.0.0.1: 127.0.0.1:${port} refused the connection [target.refused]`,
  );
  expect(stage.stateFiles()).toEqual([]);
});

test('a refusal without tls says what to add', async () => {
  stage.standIn('mount.nfs4', 'echo "mount.nfs4: access denied by server while mounting x:/" >&2; exit 32');

  const ended = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'mounttargetip=127.0.0.1');

  expect(ended.stderr).toContain(
    '[access.denied]\n  Add the options tls and iam, or allow anonymous clients',
  );
});

test('two commands that mount on one directory at once do not mount it twice', async () => {
  const go = join(stage.directory, 'go');
  stage.standIn(
    'mount.nfs4',
    `echo called >>${stage.directory}/nfs-calls; until [ -e ${go} ]; do sleep 0.1; done`,
  );
  const first = stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'mounttargetip=127.0.0.1');
  await expect.poll(() => stage.nfsCalls()).toEqual(['called']);

  const second = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'mounttargetip=127.0.0.1');
  writeFileSync(go, '');

  expect(second.status).toBe(32);
  expect(second.stderr).toContain(
    `another command is mounting on ${stage.mountPoint} at this moment [mountpoint.busy]`,
  );
  expect((await first).status).toBe(0);
});
