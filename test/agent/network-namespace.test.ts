import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  type AgentStage,
  fileSystemId,
  openAgentStage,
  targetName,
  waitFor,
} from '../support/agent-stage.ts';

const canUnshare = spawnSync('unshare', ['--net', 'true']).status === 0;

let stage: AgentStage;
beforeEach(() => {
  stage = openAgentStage([23110, 23119]);
});
afterEach(() => stage.close());

/** A network namespace with its loopback up, and a TLS server inside in the place of the mount target. */
async function openNamespace(
  address = '127.0.0.1',
  prepare = 'true',
): Promise<{ path: string; close(): void }> {
  const certificate = stage.ca.issue({ names: [targetName] });
  const script = join(stage.directory, 'target.mjs');
  writeFileSync(
    script,
    `import tls from 'node:tls';
tls.createServer(${JSON.stringify({ key: certificate.privateKeyPem, cert: certificate.certificatePem })}, (socket) => socket.on('error', () => {}).pipe(socket))
  .listen(2049, '${address}', () => console.log('listening'));`,
  );
  const command = `ip link set lo up && ${prepare} && exec "${process.execPath}" "${script}"`;
  const child = spawn('unshare', ['--net', 'sh', '-c', command], { stdio: ['ignore', 'pipe', 'inherit'] });
  let said = '';
  child.stdout.on('data', (chunk: Buffer) => {
    said += chunk;
  });
  await waitFor(() => said.includes('listening'), 'the target in the namespace');
  return { path: `/proc/${child.pid}/ns/net`, close: () => void child.kill('SIGKILL') };
}

test.skipIf(!canUnshare)(
  'netns: tunnel, names and mount.nfs4 are in that namespace, with an agent of its own',
  async () => {
    const namespace = await openNamespace();
    try {
      const inode = statSync(namespace.path).ino;
      stage.standIn(
        'mount.nfs4',
        `echo "$(stat -L -c %i /proc/self/ns/net) $*" >>${stage.directory}/nfs-calls`,
      );
      await stage.startAgent();

      const mounted = await stage.mountEfs(
        fileSystemId,
        stage.mountPoint,
        '-o',
        `tls,mounttargetip=127.0.0.1,netns=${namespace.path}`,
      );

      expect(mounted).toEqual({ status: 0, stdout: '', stderr: '' });
      expect(stage.nfsCalls()).toEqual([
        expect.stringMatching(`^${inode} 127\\.0\\.0\\.1:/ ${stage.mountPoint} -o`),
      ]);
      const { stdout } = await stage.efsAgent('status', '--json');
      const status = JSON.parse(stdout);
      expect(status.mounts).toEqual([]);
      const [other] = status.otherNetworkNamespaces;
      expect(other.mounts).toMatchObject([{ mountPoint: stage.mountPoint, state: 'mounted', tls: true }]);
      expect(statSync(`/proc/${other.pid}/ns/net`).ino).toBe(inode);
      const listening = execFileSync('nsenter', [`--net=${namespace.path}`, 'cat', '/proc/net/tcp'], {
        encoding: 'utf8',
      });
      expect(listening).toContain(`:${other.mounts[0].port.toString(16).toUpperCase()} `);

      // Unmounted from outside: the agent of the namespace closes the tunnel all the same.
      expect(await stage.umountEfs(stage.mountPoint)).toMatchObject({ status: 0, stderr: '' });
      const after = JSON.parse((await stage.efsAgent('status', '--json')).stdout);
      expect(after.otherNetworkNamespaces[0].mounts).toEqual([]);
    } finally {
      namespace.close();
    }
  },
);

test.skipIf(!canUnshare).each([
  ['IPv6 alone', '::1', 'true'],
  ['IPv4 alone', '127.0.0.1', 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6'],
])('a namespace with %s to the mount target', async (_what, address, prepare) => {
  const namespace = await openNamespace(address, prepare);
  try {
    const mounted = await stage.mountEfs(
      fileSystemId,
      stage.mountPoint,
      '-o',
      `tls,mounttargetip=${address},netns=${namespace.path}`,
    );

    expect(mounted).toEqual({ status: 0, stdout: '', stderr: '' });
    const { otherNetworkNamespaces } = JSON.parse((await stage.efsAgent('status', '--json')).stdout);
    expect(otherNetworkNamespaces[0].mounts).toMatchObject([{ address, state: 'mounted' }]);
  } finally {
    namespace.close();
  }
});

test.skipIf(!canUnshare)('a failure inside the namespace is told once, with its exit status', async () => {
  const namespace = await openNamespace();
  try {
    const ended = await stage.mountEfs(
      fileSystemId,
      stage.mountPoint,
      '-o',
      `tls,mounttargetip=127.0.0.2,netns=${namespace.path}`,
    );

    expect(ended).toMatchObject({ status: 32, stdout: '' });
    expect(ended.stderr).toMatch(
      /^mount\.efs: fs-0123456789abcdef0 on \S+: Cannot connect to file system mount target ip address 127\.0\.0\.2: .*\n {2}.*\n$/,
    );
  } finally {
    namespace.close();
  }
});
