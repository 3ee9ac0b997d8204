import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { afterEach, describe, expect, test } from 'vitest';
import type { TargetOptions } from '../../src/target/target.ts';
import { createTemporaryDirectory } from '../support/temporary-directory.ts';
import {
  connectTls,
  fileSystemId,
  openStage,
  openTunnel,
  readCredentials,
  runNfs,
  type Stage,
  signedCertificate,
  unsignedCertificate,
  whyNoServer,
} from './stage.ts';

if (whyNoServer !== null)
  process.stderr.write(`SKIPPED: the mount target with a real NFS server: ${whyNoServer}\n`);

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

const roleArn = 'arn:aws:iam::111122223333:role/efs-client';
const nullCall = Buffer.from(
  '80000028000000070000000000000002000186a30000000400000000'.padEnd(88, '0'),
  'hex',
);
/** EXCHANGE_ID in a COMPOUND of minor version 1, as long as the Linux client's: 300 bytes with its record mark. */
const exchangeId = Buffer.concat([
  Buffer.from('80000128000000080000000000000002000186a30000000400000001'.padEnd(88, '0'), 'hex'),
  Buffer.from('00000000000000010000000100000002a'.slice(0, 32), 'hex'),
  Buffer.alloc(240),
]);

async function stageWith(
  statement: object | null,
  changes: Partial<TargetOptions> = {},
): Promise<Stage & { policyFile: string | null }> {
  const directory = mkdtempSync(join(tmpdir(), 'efs-agent-policy-'));
  undo.push(() => rmSync(directory, { recursive: true, force: true }));
  const policyFile = statement === null ? null : join(directory, 'policy.json');
  if (policyFile !== null) writePolicy(policyFile, statement!);
  const stage = await openStage({ policyFile, ...changes });
  undo.push(stage.close);
  return { ...stage, policyFile };
}

function writePolicy(file: string, statement: object): void {
  const Action = ['ClientMount', 'ClientWrite', 'ClientRootAccess'].map(
    (action) => `elasticfilesystem:${action}`,
  );
  writeFileSync(
    file,
    JSON.stringify({
      Version: '2012-10-17',
      Statement: [{ Effect: 'Allow', Principal: { AWS: roleArn }, Action, Resource: '*', ...statement }],
    }),
  );
}

async function tunnelTo(stage: Stage, certificate: Buffer | null): Promise<number> {
  const tunnel = await openTunnel(stage, certificate);
  undo.push(tunnel.close);
  return tunnel.port;
}

async function answerOf(socket: Duplex, call: Buffer): Promise<string> {
  socket.write(call);
  const [bytes] = (await once(socket, 'data', { signal: AbortSignal.timeout(5_000) })) as [Buffer];
  return bytes.toString('hex');
}

function textFile(stage: Stage, text: string): string {
  const file = join(stage.directory, 'source.txt');
  writeFileSync(file, text);
  return file;
}

const actions = (...names: string[]) => ({ Action: names.map((name) => `elasticfilesystem:${name}`) });

describe.skipIf(whyNoServer !== null)('a local mount target', () => {
  test('carries a real NFS client that signed with the instance role, and records who it was', async () => {
    const stage = await stageWith({});
    const port = await tunnelTo(stage, await signedCertificate(stage));

    await runNfs(port, 'nfs-cp', textFile(stage, 'hello'), '{/hello.txt}');

    expect(readFileSync(join(stage.directory, 'export', 'hello.txt'), 'utf8')).toBe('hello');
    expect(await runNfs(port, 'nfs-cat', '{/hello.txt}')).toBe('hello');
    expect(stage.events[0]).toMatchObject({
      eventName: 'NewClientConnection',
      eventSource: 'elasticfilesystem.amazonaws.com',
      eventType: 'AwsServiceEvent',
      eventCategory: 'Management',
      readOnly: true,
      userIdentity: {
        type: 'AssumedRole',
        arn: 'arn:aws:sts::111122223333:assumed-role/efs-client/i-0123456789abcdef0',
        accessKeyId: expect.stringMatching(/^ASIA/),
        sessionContext: { sessionIssuer: { type: 'Role', arn: roleArn } },
      },
      resources: [{ ARN: `arn:aws:elasticfilesystem:us-east-1:111122223333:file-system/${fileSystemId}` }],
      serviceEventDetails: {
        permissions: { ClientMount: true, ClientWrite: true, ClientRootAccess: true },
        sourceIpAddress: '127.0.0.1',
      },
    });
    expect(stage.events[0]).not.toHaveProperty('errorCode');
  });

  test('answers TLS without a signature with 28 bytes for NULL and 24 for EXCHANGE_ID, and lets the client close', async () => {
    const stage = await stageWith({});
    const client = await connectTls(stage, unsignedCertificate());

    expect(await answerOf(client, nullCall)).toBe('8000001800000007000000010000000000000000'.padEnd(56, '0'));
    expect(exchangeId).toHaveLength(300);
    expect(await answerOf(client, exchangeId)).toBe('800000140000000800000001000000010000000100000005');
    client.end();

    await expect
      .poll(() => stage.events.at(-1))
      .toMatchObject({ eventName: 'ConnectionClosed', bytesReceived: 344, bytesSent: 52 });
    expect(stage.events[0]).toMatchObject({
      errorCode: 'AccessDenied',
      userIdentity: { type: 'AWSAccount', accountId: 'ANONYMOUS_PRINCIPAL' },
      serviceEventDetails: {
        permissions: { ClientMount: false, ClientWrite: false, ClientRootAccess: false },
      },
    });
  });

  test('denies plain NFS on the same port in the same way', async () => {
    const stage = await stageWith({});
    const client = connect({ host: '127.0.0.1', port: stage.port });
    undo.push(() => client.destroy());

    expect(await answerOf(client, nullCall)).toHaveLength(56);
    expect(await answerOf(client, exchangeId)).toMatch(/00000005$/);
    await expect(runNfs(stage.port, 'nfs-ls', '{}')).rejects.toThrow();
  });

  test('lets plain NFS in when there is no policy', async () => {
    const stage = await stageWith(null);

    await runNfs(stage.port, 'nfs-cp', textFile(stage, 'anonymous'), '{/a.txt}');

    expect(readFileSync(join(stage.directory, 'export', 'a.txt'), 'utf8')).toBe('anonymous');
    expect(stage.events[0]).toMatchObject({
      userIdentity: { accountId: 'ANONYMOUS_PRINCIPAL' },
      serviceEventDetails: { permissions: { ClientMount: true, ClientWrite: true, ClientRootAccess: true } },
    });
  });

  test('refuses a certificate signed with another secret, and says why in the event', async () => {
    const stage = await stageWith(null);
    const credentials = await readCredentials(stage);
    const certificate = await signedCertificate(stage, {
      signature: { ...credentials, secretAccessKey: 'guessed' },
    });
    const client = await connectTls(stage, certificate);
    undo.push(() => client.destroy());

    expect(await answerOf(client, exchangeId)).toMatch(/00000005$/);
    expect(stage.events[0]).toMatchObject({
      errorCode: 'AccessDenied',
      efsAgentDetails: { reason: 'signature-mismatch' },
    });
  });

  test('still knows the credentials it handed out after it was started anew', async () => {
    const first = await stageWith({});
    const certificate = await signedCertificate(first);
    await first.target.close();
    const second = await stageWith({}, { stateDirectory: join(first.directory, 'state') });

    expect(await runNfs(await tunnelTo(second, certificate), 'nfs-ls', '{}')).toBe('');
    expect(second.events[0]).toMatchObject({ userIdentity: { type: 'AssumedRole' } });
  });

  test('refuses credentials whose life is over', async () => {
    const clock = { nowMs: Date.now() };
    const stage = await stageWith(null, { credentialsLifetimeMs: 60_000, nowMs: () => clock.nowMs });
    const certificate = await signedCertificate(stage);
    clock.nowMs += 61_000;
    const client = await connectTls(stage, certificate);
    undo.push(() => client.destroy());

    expect(await answerOf(client, exchangeId)).toMatch(/00000005$/);
    expect(stage.events[0]).toMatchObject({ efsAgentDetails: { reason: 'credentials-expired' } });
  });

  test('starts its NFS server again when that has died', async () => {
    const stage = await stageWith(null);
    const pidFile = join(stage.directory, 'state', 'ganesha', fileSystemId, 'pid');
    const client = connect({ host: '127.0.0.1', port: stage.port });
    await answerOf(client, nullCall);

    process.kill(Number(readFileSync(pidFile, 'utf8')), 'SIGKILL');
    await once(
      client.on('error', () => {}),
      'close',
      { signal: AbortSignal.timeout(5_000) },
    );

    expect(await runNfs(stage.port, 'nfs-ls', '{}')).toBe('');
  });

  test('with ClientMount alone serves a read-only file system', async () => {
    const stage = await stageWith(actions('ClientMount'));
    const port = await tunnelTo(stage, await signedCertificate(stage));
    writeFileSync(join(stage.directory, 'export', 'there.txt'), 'readable');

    await expect(runNfs(port, 'nfs-cp', textFile(stage, 'x'), '{/new.txt}')).rejects.toThrow();
    expect(await runNfs(port, 'nfs-cat', '{/there.txt}')).toBe('readable');
    expect(readdirSync(join(stage.directory, 'export'))).toEqual(['there.txt']);
  });

  test('without ClientRootAccess makes the files of root the anonymous user\u2019s', async () => {
    const stage = await stageWith(actions('ClientMount', 'ClientWrite'));
    const port = await tunnelTo(stage, await signedCertificate(stage));
    chmodSync(join(stage.directory, 'export'), 0o777);

    await runNfs(port, 'nfs-cp', textFile(stage, 'x'), '{/squashed.txt}');

    expect(statSync(join(stage.directory, 'export', 'squashed.txt')).uid).toBe(65_534);
  });

  test('serves an access point from its own root as its own user, and makes that root', async () => {
    const id = 'fsap-0123456789abcdef0';
    const accessPoint = {
      id,
      fileSystemId,
      path: '/apps/one',
      user: { uid: 1234, gid: 1235 },
      createMode: 0o750,
    };
    const stage = await stageWith({}, { accessPoints: [accessPoint] });
    const port = await tunnelTo(stage, await signedCertificate(stage, { accessPointId: id }));
    writeFileSync(join(stage.directory, 'export', 'outside.txt'), 'x');

    await runNfs(port, 'nfs-cp', textFile(stage, 'x'), '{/mine.txt}');

    const root = join(stage.directory, 'export', 'apps', 'one');
    expect(statSync(root)).toMatchObject({ uid: 1234, gid: 1235, mode: 0o40750 });
    expect(statSync(join(root, 'mine.txt'))).toMatchObject({ uid: 1234, gid: 1235 });
    expect(await runNfs(port, 'nfs-ls', '{}')).not.toContain('outside.txt');
  });

  test('never follows an access point out of its file system', async () => {
    const id = 'fsap-0123456789abcdef0';
    const accessPoint = { id, fileSystemId, path: '/link/one', user: { uid: 1, gid: 1 }, createMode: 0o755 };
    const stage = await stageWith(null, { accessPoints: [accessPoint] });
    symlinkSync(stage.directory, join(stage.directory, 'export', 'link'));
    const client = await connectTls(stage, unsignedCertificate({ accessPointId: id }));
    undo.push(() => client.destroy());

    expect(await answerOf(client, exchangeId)).toMatch(/00000005$/);
    expect(existsSync(join(stage.directory, 'one'))).toBe(false);
    expect(stage.events[0]).toMatchObject({ efsAgentDetails: { reason: 'access-point-root-missing' } });
  });

  test('follows the policy file at the next connection, and keeps the last good one', async () => {
    const stage = await stageWith({});
    await expect(runNfs(stage.port, 'nfs-ls', '{}')).rejects.toThrow();

    writePolicy(stage.policyFile!, { Principal: '*' });
    expect(await runNfs(stage.port, 'nfs-ls', '{}')).toBe('');

    writeFileSync(stage.policyFile!, '{ not JSON');
    expect(await runNfs(stage.port, 'nfs-ls', '{}')).toBe('');
    expect(stage.events).toContainEqual(
      expect.objectContaining({ eventName: 'PolicyRejected', code: 'config.malformed' }),
    );
  });

  test('a reset of the client ends its connection to the NFS server', async () => {
    const stage = await stageWith(null);
    const client = connect({ host: '127.0.0.1', port: stage.port });
    await answerOf(client, nullCall);

    client.resetAndDestroy();

    await expect
      .poll(() => stage.events.at(-1))
      .toMatchObject({ eventName: 'ConnectionClosed', bytesSent: 28 });
  });
});

describe.skipIf(whyNoServer !== null)('efs-agent target', () => {
  const start = async (...args: string[]) => {
    const directory = createTemporaryDirectory();
    undo.push(() => rmSync(directory, { recursive: true, force: true }));
    const ports = ['--listen', '127.0.0.1:0', '--metadata', '127.0.0.1:0'];
    const child = spawn(process.execPath, ['dist/efs-agent.mjs', 'target', ...ports, ...args], {
      env: { ...process.env, TMPDIR: directory },
    });
    undo.push(() => child.kill('SIGKILL'));
    let errors = '';
    child.stderr.on('data', (chunk: Buffer) => {
      errors += chunk.toString();
    });
    return { child, directory, errors: () => errors };
  };

  const serversOf = (directory: string) =>
    readdirSync('/proc').filter((pid) => {
      try {
        return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(`${directory}/`);
      } catch {
        return false;
      }
    });

  test('prints what an agent needs, and leaves nothing behind on SIGTERM', async () => {
    const { child, directory, errors } = await start('--file-system', fileSystemId, '--json');
    const [line] = (await once(child.stdout, 'data')) as [Buffer];
    const facts = JSON.parse(line.toString());

    expect(facts).toMatchObject({ pid: child.pid, listen: [{ address: '127.0.0.1' }] });
    expect(facts.conf).toContain(`mount_target_port = ${facts.listen[0].port}\n`);
    expect(facts.conf).toContain(`metadata_endpoint = ${facts.metadataEndpoint}\n`);
    expect(existsSync(facts.caFile)).toBe(true);
    expect(serversOf(directory)).toHaveLength(1);
    child.kill('SIGTERM');

    expect(await once(child, 'exit')).toEqual([0, null]);
    expect(errors()).toBe('');
    expect(serversOf(directory)).toEqual([]);
    expect(readdirSync(directory)).toEqual([]);
  });

  test('takes its NFS server with it when it is killed', async () => {
    const { child, directory } = await start('--file-system', fileSystemId);
    await once(child.stdout, 'data');
    expect(serversOf(directory)).toHaveLength(1);

    child.kill('SIGKILL');

    await expect.poll(() => serversOf(directory)).toEqual([]);
  });

  test.each([
    [['--file-system', 'fs-XYZ'], '[spec.malformed]'],
    [[], '[usage]'],
    [['--file-system', 'fs-01', '--listen', 'localhost'], '[option.malformed]'],
    [['--file-system', 'fs-01', '--access-point', 'fsap-1=fs-01:/'], '[access-point.malformed]'],
    [['--file-system', 'fs-01', '--region', 'US'], '[region.malformed]'],
    [['--file-system', 'fs-01', '--policy', '/nonexistent'], '[config.unreadable]'],
  ])('%j is one clear error', async (args, code) => {
    const { child, errors } = await start(...args);

    const [status] = await once(child, 'close');

    expect(status).toBeGreaterThan(0);
    expect(errors()).toContain(code);
    expect(errors()).not.toContain('    at ');
  });
});

/** A machine without a network: a network namespace whose loopback has 127.0.0.1 alone. */
const offline = ['--net', 'sh', '-c', 'ip link set lo up && exec "$@"', 'sh'];

test('on a machine without a network the mount target says what keeps NFS-Ganesha from starting, and what helps', async ({
  skip,
}) => {
  if (whyNoServer !== null) skip(whyNoServer);
  if (spawnSync('unshare', [...offline, 'true']).status !== 0) skip('not here: unshare --net');
  const directory = createTemporaryDirectory();
  undo.push(() => rmSync(directory, { recursive: true, force: true }));
  const start = (...setting: string[]) => {
    const words = [...setting, process.execPath, 'dist/efs-agent.mjs', 'target', '--json'];
    const own = ['--file-system', fileSystemId, '--listen', '127.0.0.1:0', '--metadata', '127.0.0.1:0'];
    return spawn('unshare', [...offline, ...words, ...own, '--state-dir', directory]);
  };

  const refused = start();
  let said = '';
  refused.stderr.on('data', (chunk) => {
    said += chunk;
  });
  const [status] = await once(refused, 'close');
  const advice = /: (ip address add \S+ dev lo)$/m.exec(said)?.[1];
  const helped = start('sh', '-c', `${advice} && exec "$@"`, 'sh');
  const [ready] = await once(helped.stdout, 'data');
  helped.kill('SIGTERM');
  await once(helped, 'close');

  expect(status).toBe(32);
  expect(said).toMatch(
    /^efs-agent: ganesha\.nfsd does not start .* \[nfs\.failed\]\n {2}NFS-Ganesha takes a machine/,
  );
  expect(String(ready)).toContain('"caFile"');
});
