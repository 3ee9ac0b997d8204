import { chmodSync, cpSync, existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { StatusReport } from '../../src/core/status-report.ts';
import { type AgentStage, fileSystemId, openAgentStage, waitFor } from '../support/agent-stage.ts';
import { daemon, nobody, runAs, startAs, type User } from '../support/other-user.ts';
import { highestRssBytes } from '../support/processes.ts';

let stage: AgentStage;
beforeEach(() => {
  stage = openAgentStage([23240, 23249]);
  // Other users find the programs, and the sockets.
  chmodSync(stage.directory, 0o755);
  cpSync('dist', join(stage.directory, 'programs'), { recursive: true });
});
afterEach(() => stage.close());

const requiresRoot = 'not here: only root can start programs of other users';
const mostRssBytes = 300 * 2 ** 20;
const isRoot = process.getuid?.() === 0;
const socketPath = () => join(stage.runtimeDir, 'status.sock');
const statusAs = (user: User, ...options: string[]) =>
  runAs(user, [join(stage.directory, 'programs', 'efs-agent.mjs'), 'status', ...options], stage.environment);

async function mountWith(...settings: string[]): Promise<void> {
  const target = await stage.startTarget();
  stage.configure([], [`mount_target_port = ${target.port}`, 'max_connections = 1', ...settings]);
  await stage.startAgent();
  expect(
    await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'tls,mounttargetip=127.0.0.1'),
  ).toMatchObject({ status: 0 });
}

test('who may see the status: root always, the group of status_group if there is one, and nobody else', async ({
  skip,
}) => {
  skip(!isRoot, requiresRoot);
  await mountWith('status_group = daemon');
  const asDaemon = { uid: nobody.uid, gid: daemon.gid };

  const [ofMember, ofStranger, ofRoot] = [
    await statusAs(asDaemon, '--json'),
    await statusAs(nobody),
    await stage.efsAgent('status', '--json'),
  ];

  const seen = JSON.parse(ofMember.stdout) as StatusReport;
  expect(ofMember).toMatchObject({ status: 0, stderr: '' });
  expect(seen.mounts).toHaveLength(1);
  expect(seen.mounts[0]).toMatchObject({ fileSystemId, mountPoint: stage.mountPoint, state: 'mounted' });
  expect(seen.mounts.map(({ mountId }) => mountId)).toEqual(
    (JSON.parse(ofRoot.stdout) as StatusReport).mounts.map(({ mountId }) => mountId),
  );
  expect(ofStranger).toMatchObject({ status: 1, stdout: '' });
  expect(ofStranger.stderr).toContain(`you are not in the group of ${socketPath()}`);
  expect(statSync(socketPath())).toMatchObject({ uid: 0, gid: daemon.gid });
  expect(statSync(socketPath()).mode & 0o777).toBe(0o660);
});

test('without status_group no other user sees the status, and is told what to do', async ({ skip }) => {
  skip(!isRoot, requiresRoot);
  await mountWith();

  const { status, stdout, stderr } = await statusAs(nobody);

  expect({ status, stdout }).toEqual({ status: 1, stdout: '' });
  expect(stderr).toContain('[permission.not-root]');
  expect(stderr).toContain('status_group');
  expect(existsSync(socketPath())).toBe(false);
});

test('a status_group that does not exist is named in the log, and lets nobody ask', async () => {
  stage.configure([], ['status_group = no-such-group']);

  const agent = await stage.startAgent();

  expect(agent.stderr()).toContain('status_group: there is no group no-such-group');
  expect(existsSync(socketPath())).toBe(false);
});

const orders: [what: string, request: string][] = [
  ['open a tunnel', '{"kind":"tunnel.open","version":1,"spec":SPEC,"mountPoint":null,"environment":{}}'],
  ['compare a mount', '{"kind":"compare","version":1,"spec":SPEC,"mountPoint":"/mnt","environment":{}}'],
  ['end a mount', '{"kind":"mount.ended","status":0,"stderr":""}'],
  ['report an unmount', '{"kind":"unmounted","version":1,"mountPoint":"MOUNT"}'],
  ['change the log level', '{"kind":"log-level","version":1,"change":{"level":"debug","forMs":null}}'],
  ['put another program in its place', '{"kind":"takeover","version":1,"program":"/tmp/agent.cjs"}'],
  ['use its credentials', '{"kind":"whoami","version":1,"mountPoint":null,"region":null,"environment":{}}'],
  ['send what is no message', 'GET / HTTP/1.1'],
];

test('on that socket the agent obeys no order', async ({ skip }) => {
  skip(!isRoot, requiresRoot);
  await mountWith('status_group = nogroup');
  const record = readFileSync(join(stage.runtimeDir, 'mounts', stage.stateFiles()[0]!), 'utf8');
  const { spec } = JSON.parse(record) as { spec: object };

  for (const [what, request] of orders) {
    const line = request.replace('SPEC', JSON.stringify(spec)).replace('MOUNT', stage.mountPoint);
    const script = `
      const socket = require('node:net').connect(${JSON.stringify(socketPath())}, () => socket.write(${JSON.stringify(`${line}\n`)}));
      socket.on('data', (chunk) => { console.log(String(chunk)); process.exit(); });
      socket.on('error', (error) => { console.log(error.code); process.exit(); });`;
    const { stdout } = await runAs(nobody, ['-e', script]);

    expect(JSON.parse(stdout), what).toMatchObject({ kind: 'failed' });
    expect((JSON.parse(stdout) as { error: { code: string } }).error.code, what).toMatch(
      /^(?:permission\.not-root|agent\.protocol)$/,
    );
  }

  expect((await stage.status()).mounts).toMatchObject([{ state: 'mounted' }]);
});

/** What a user does to the socket for as long as it is let; it says when it has begun. */
const attacks: [what: string, attack: string][] = [
  [
    'opens connections and says nothing',
    `for (let i = 0; i < 2000; i += 1) open();
     again(() => open());`,
  ],
  [
    'asks as often as it can',
    `for (let i = 0; i < 64; i += 1) ask(); function ask() { open(status).on('close', ask); }`,
  ],
  [
    'asks without reading the answers',
    `for (let i = 0; i < 64; i += 1) { const socket = open(status); socket.pause(); again(() => socket.write(status.repeat(100))); }`,
  ],
  [
    'sends a request that does not end',
    `for (let i = 0; i < 64; i += 1) { const socket = open('{"kind":"'); again(() => socket.write('x')); }`,
  ],
  [
    'sends a line that does not end',
    `for (let i = 0; i < 64; i += 1) { const socket = open(); again(() => { if (!socket.writableNeedDrain) socket.write('x'.repeat(65536)); }); }`,
  ],
];

test.for(attacks)(
  'a user that %s does not keep root from mounting, and does not cost the agent its memory',
  { timeout: 120_000 },
  async ([, attack], { skip }) => {
    skip(!isRoot, requiresRoot);
    const target = await stage.startTarget();
    stage.configure(
      [],
      [`mount_target_port = ${target.port}`, 'max_connections = 1', 'status_group = nogroup'],
    );
    const agent = await stage.startAgent();
    const attacker = startAs(nobody, [
      '-e',
      `const status = '{"kind":"status","version":1}\\n';
       const again = (act) => setInterval(act, 1);
       function open(text) {
         const socket = require('node:net').connect(${JSON.stringify(socketPath())});
         socket.on('error', () => {});
         if (text) socket.write(text);
         return socket;
       }
       ${attack}
       setTimeout(() => console.log('begun'), 500);`,
    ]);
    await waitFor(() => attacker.stdout().includes('begun'), 'the attack to begin');

    const mounted = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'tls,mounttargetip=127.0.0.1');
    const status = await stage.status();

    expect(mounted).toMatchObject({ status: 0 });
    expect(status.mounts).toMatchObject([{ state: 'mounted' }]);
    expect(highestRssBytes(agent.child.pid!)).toBeLessThan(mostRssBytes);
    attacker.child.kill('SIGKILL');
    await expect
      .poll(() => statusAs(nobody).then((run) => run.status), { timeout: 60_000, interval: 500 })
      .toBe(0);
  },
);
