import { execFile, spawn, spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { AgentStatus } from '../../src/core/control-protocol.ts';
import {
  type AgentStage,
  fileSystemId,
  openAgentStage,
  targetName,
  waitFor,
} from '../support/agent-stage.ts';

const run = promisify(execFile);
const bundles = join(import.meta.dirname, '../../dist');
// A tunnel device that nobody reads from swallows packets without a word, as a firewall does.
const canSwallow =
  spawnSync('unshare', ['--net', '--mount', 'ip', 'tuntap', 'add', 'dev', 'hole', 'mode', 'tun']).status ===
  0;

let stage: AgentStage;
let pid = 0;
let end = () => {};
beforeEach(() => {
  stage = openAgentStage([23140, 23149]);
});
afterEach(async () => {
  await stage.close();
  end();
});

const prefix = (program: string) => [
  ...['--target', `${pid}`, '--net', '--mount', '--', process.execPath, join(bundles, program)],
];
const mountThere = (options: string) =>
  run('nsenter', [...prefix('mount-efs.cjs'), fileSystemId, stage.mountPoint, '-o', options], {
    env: stage.environment,
  });
const statusThere = async () =>
  JSON.parse(
    (await run('nsenter', [...prefix('efs-agent.mjs'), 'status', '--json'], { env: stage.environment }))
      .stdout,
  ) as AgentStatus;

/** A network namespace where the name of the file system has two addresses, and packets to one of them vanish. */
async function openNamespace(alive: string, dead: string): Promise<void> {
  const certificate = stage.ca.issue({ names: [targetName] });
  const material = { key: certificate.privateKeyPem, cert: certificate.certificatePem };
  const target = join(stage.directory, 'target.mjs');
  writeFileSync(
    target,
    `import tls from 'node:tls';
tls.createServer(${JSON.stringify(material)}, (socket) => socket.on('error', () => {}).pipe(socket))
  .listen(2049, '${alive}', () => console.log('listening'));`,
  );
  const hosts = join(stage.directory, 'hosts');
  const name = `${fileSystemId}.efs.us-east-1.amazonaws.com`;
  writeFileSync(hosts, `127.0.0.1 localhost\n${dead} ${name}\n${alive} ${name}\n`);
  const commands = [
    `mount --bind ${hosts} /etc/hosts`,
    'ip link set lo up',
    'ip tuntap add dev hole mode tun',
    'ip link set hole up',
    // Both are next to us, so that neither is put behind the other for being far away.
    'ip addr add 10.99.0.1/24 dev hole && ip -6 addr add fd00:99::1/64 dev hole nodad',
    'ip addr add 10.98.0.6/24 dev lo && ip -6 addr add fd00:98::6/64 dev lo nodad',
    `exec "${process.execPath}" "${target}"`,
  ];
  const child = spawn('unshare', ['--net', '--mount', 'sh', '-c', commands.join(' && ')], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let said = '';
  child.stdout.on('data', (chunk: Buffer) => {
    said += chunk;
  });
  await waitFor(() => said.includes('listening'), 'the target in the namespace');
  pid = child.pid!;
  end = () => void child.kill('SIGKILL');
}

test.skipIf(!canSwallow).each([
  ['IPv4', 'fd00:98::6', '10.99.0.2', 'tls'],
  ['IPv6', '10.98.0.6', 'fd00:99::2', 'tls'],
  ['IPv4', 'fd00:98::6', '10.99.0.2', 'notls'],
  ['IPv6', '10.98.0.6', 'fd00:99::2', 'notls'],
])(
  'where packets of %s vanish, a mount goes through %s without waiting for %s: %s',
  async (_, alive, dead, option) => {
    await openNamespace(alive, dead);
    stage.configure([], ['dial_timeout_sec = 1', 'max_connections = 1']);
    // Starts the agent, and proves that nobody answers for the dead address.
    await expect(mountThere(`${option},mounttargetip=${dead}`)).rejects.toMatchObject({
      stderr: expect.stringContaining('did not answer within'),
    });
    stage.configure([], ['dial_timeout_sec = 30', 'max_connections = 1']);

    const startedMonoMs = performance.now();
    await mountThere(option);
    const elapsedMs = performance.now() - startedMonoMs;

    expect((await statusThere()).mounts).toMatchObject([{ address: alive, state: 'mounted' }]);
    // Half of the dial time, which the dead address alone would take.
    expect(elapsedMs).toBeLessThan(15_000);
  },
);
