import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { Diagnosis, Result } from '../../src/doctor/diagnose.ts';
import { createTemporaryCa } from '../support/temporary-ca.ts';
import { openStage, type Stage, whyNoServer } from '../target/stage.ts';
import { type DoctorStage, openDoctorStage, targetName } from './stage.ts';

const hourMs = 3_600_000;
const direct = 'mounttargetip=127.0.0.1';
let stage: DoctorStage;
beforeEach(() => {
  stage = openDoctorStage();
});
afterEach(() => stage.close());

const withVerdict = ({ results }: Diagnosis, verdict: Result['verdict']) =>
  results.filter((result) => result.verdict === verdict).map(({ check }) => check);
const resultOf = ({ results }: Diagnosis, check: string) => results.find((result) => result.check === check)!;

interface Broken {
  name: string;
  options?: string | null;
  device?: string;
  breakIt: (stage: DoctorStage) => unknown;
  /** The check that fails, alone, and so the layer that is named. */
  check: string;
  layer: Result['layer'];
  code: string | null;
  evidence: RegExp;
}

const broken: Broken[] = [
  {
    name: 'a kernel without an NFS client',
    options: null,
    breakIt: ({ write }) => write('filesystems', 'nodev\ttmpfs\n'),
    check: 'kernel-client',
    layer: 'local',
    code: 'nfs.failed',
    evidence: /Linux 6\.1\.0-13-cloud-amd64 has no NFS 4 client/,
  },
  {
    name: 'a mount.nfs4 that cannot be run',
    options: null,
    breakIt: ({ write }) => write('bin/mount.nfs4', '#!/no/such/interpreter\n'),
    check: 'mount-program',
    layer: 'local',
    code: 'nfs.program-missing',
    evidence: /cannot run .*mount\.nfs4: ENOENT/,
  },
  {
    name: 'the mount.efs of another program',
    options: null,
    breakIt: ({ write, places }) => {
      rmSync(places.mountHelpers[0]!);
      write('sbin/mount.efs', '#!/usr/bin/env python3\n');
      writeFileSync(places.rivalWatchdog, '');
    },
    check: 'efs-utils',
    layer: 'local',
    code: null,
    evidence: /not efs-agent's but that of amazon-efs-utils/,
  },
  {
    name: 'an agent that does not answer',
    options: null,
    breakIt: ({ listen }) => listen(() => {}),
    check: 'agent',
    layer: 'local',
    code: 'agent.unreachable',
    evidence: /accepts connections and does not answer; 0 mounts/,
  },
  {
    name: 'an fstab line that cannot be mounted',
    options: null,
    breakIt: ({ write }) => write('fstab', '# ours\nfs-0123 /mnt efs _netdev,iam 0 0\n'),
    check: 'fstab',
    layer: 'local',
    code: 'option.requires',
    evidence: /fstab:2: fs-0123 on \/mnt: The "tls" option is required/,
  },
  {
    name: 'a configuration file with a line that means nothing',
    options: null,
    breakIt: ({ write }) => write('efs-utils.conf', '[mount]\nwhat is this\n'),
    check: 'configuration',
    layer: 'local',
    code: 'config.malformed',
    evidence: /efs-utils\.conf:2:/,
  },
  {
    name: 'a region that nobody tells',
    options: 'tls',
    breakIt: ({ write }) =>
      write('efs-utils.conf', '[mount]\n[agent]\nmetadata_endpoint = http://127.0.0.1:9\n'),
    check: 'region',
    layer: 'local',
    code: 'region.unknown',
    evidence: /the instance does not tell it/,
  },
  {
    name: 'a name that does not resolve',
    options: 'tls',
    breakIt: ({ configure }) => configure(['dns_name_suffix = invalid'], []),
    check: 'dns',
    layer: 'dns',
    code: expect.stringMatching(/^dns\./) as unknown as string,
    evidence: /Failed to resolve "fs-0123456789abcdef0\.efs\.us-east-1\.invalid"/,
  },
  {
    name: 'a port where nothing listens',
    breakIt: ({ configure }) => configure([], ['mount_target_port = 9']),
    check: 'tcp',
    layer: 'tcp',
    code: 'target.refused',
    evidence: /127\.0\.0\.1:9 refused the connection/,
  },
  {
    name: 'packets that are dropped, as a security group does',
    breakIt: async ({ configure }) =>
      configure([], [`mount_target_port = ${await openSilentPort()}`, 'dial_timeout_sec = 1']),
    check: 'tcp',
    layer: 'tcp',
    code: 'target.silent',
    evidence: /did not answer within 1000 ms/,
  },
  {
    name: 'a server certificate for another name',
    breakIt: ({ serveTls }) => serveTls({ names: ['*.example.com'] }, () => {}),
    check: 'tls',
    layer: 'tls',
    code: 'tls.name-mismatch',
    evidence: /a certificate for \*\.example\.com, not for fs-0123456789abcdef0\.efs\.us-east-1/,
  },
  {
    name: 'a clock, or a certificate, that is hours off',
    breakIt: ({ serveTls }) =>
      serveTls(
        { names: [targetName], notBeforeMs: Date.now() - 3 * hourMs, notAfterMs: Date.now() - hourMs },
        () => {},
      ),
    check: 'tls',
    layer: 'tls',
    code: 'tls.expired',
    evidence: /has expired: .*and the time here is/,
  },
  {
    name: 'a certificate authority that nobody vouches for',
    breakIt: async ({ serveTls, write }) => {
      await serveTls({ names: [targetName] }, () => {});
      write('ca.pem', createTemporaryCa('Another Root').rootPem);
    },
    check: 'tls',
    layer: 'tls',
    code: 'tls.untrusted',
    evidence: /no trusted root vouches for/,
  },
  {
    name: 'a server that does not speak TLS',
    breakIt: ({ serve }) => serve((socket) => void socket.write('220 mail.example.com ESMTP\r\n')),
    check: 'tls',
    layer: 'tls',
    code: 'tls.failed',
    evidence: /the TLS handshake .* failed/,
  },
  {
    name: 'no credentials',
    options: `tls,iam,${direct}`,
    breakIt: async ({ configure, serveTls }) => {
      const port = await serveTls({ names: [targetName] }, () => {});
      configure([], [`mount_target_port = ${port}`, 'metadata_endpoint = http://127.0.0.1:9']);
    },
    check: 'credentials',
    layer: 'iam',
    code: 'credentials.metadata-silent',
    evidence: /instance metadata at http:\/\/127\.0\.0\.1:9: no answer/,
  },
  {
    name: 'a server that closes the connection after the TLS handshake',
    breakIt: ({ serveTls }) => serveTls({ names: [targetName] }, (socket) => socket.end()),
    check: 'access',
    layer: 'iam',
    code: 'access.denied',
    evidence: /closed the connection after the TLS handshake, without a word to an anonymous client/,
  },
  {
    name: 'a server that speaks TLS and not NFS',
    breakIt: ({ serveTls }) => serveTls({ names: [targetName] }, (socket) => void socket.pipe(socket)),
    check: 'nfs',
    layer: 'nfs',
    code: 'nfs.failed',
    evidence: /does not speak NFS/,
  },
];

test.each(broken)('doctor names the layer of $name, and no other', async (one) => {
  await one.breakIt(stage);

  const diagnosis = await stage.examine(one.options === undefined ? `tls,${direct}` : one.options, {
    limits: { ...stage.caller().limits, closeMs: 300 },
  });

  expect(withVerdict(diagnosis, 'FAIL')).toEqual([one.check]);
  expect(diagnosis).toMatchObject({ verdict: 'FAIL', layer: one.layer });
  expect(resultOf(diagnosis, one.check)).toMatchObject({ code: one.code, layer: one.layer });
  expect(resultOf(diagnosis, one.check).evidence).toMatch(one.evidence);
  expect(resultOf(diagnosis, one.check).fix).toMatch(/^\S.+/);
});

/** A port whose backlog is full: the kernel drops what asks for it, as a security group does. */
const stoppers: { kill(signal: 'SIGKILL'): unknown; sockets: Socket[] }[] = [];
afterEach(() => {
  for (const { kill, sockets } of stoppers.splice(0)) {
    kill('SIGKILL');
    for (const socket of sockets) socket.destroy();
  }
});
async function openSilentPort(): Promise<number> {
  const script =
    "const s=require('net').createServer();s.listen(0,'127.0.0.1',1,()=>console.log(s.address().port))";
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  const port = Number(String((await once(child.stdout, 'data'))[0]));
  child.kill('SIGSTOP');
  const sockets = Array.from({ length: 6 }, () => connect(port, '127.0.0.1').on('error', () => {}));
  stoppers.push({ kill: (signal) => child.kill(signal), sockets });
  // Two fit: the first has surely been let in when the later ones are being dropped.
  await once(sockets[0]!, 'connect');
  return port;
}

describe.skipIf(whyNoServer !== null)('against the local mount target', () => {
  const roleArn = 'arn:aws:iam::111122223333:role/efs-client';
  const accessPointId = 'fsap-0123456789abcdef0';
  let target: Stage;
  let policyFile: string;
  beforeAll(async () => {
    const files = openDoctorStage();
    policyFile = join(files.directory, 'policy.json');
    writeFileSync(policyFile, JSON.stringify(policyFor(roleArn)));
    target = await openStage({
      policyFile,
      accessPoints: [
        {
          id: accessPointId,
          fileSystemId: 'fs-0123456789abcdef0',
          path: '/app',
          user: { uid: 7, gid: 7 },
          createMode: 0o755,
        },
      ],
    });
    closeFiles = () => files.close();
  });
  let closeFiles: () => Promise<void>;
  afterAll(async () => {
    await target.close();
    await closeFiles();
  });
  beforeEach(() => {
    writeFileSync(policyFile, JSON.stringify(policyFor(roleArn)));
    stage.write('ca.pem', readFileSync(target.target.caFile, 'utf8'));
    stage.configure(
      [],
      [`mount_target_port = ${target.port}`, `metadata_endpoint = ${target.target.metadataUrl}`],
    );
  });

  const policyFor = (arn: string) => ({
    Statement: [
      { Effect: 'Allow', Principal: { AWS: arn }, Action: 'elasticfilesystem:Client*', Resource: '*' },
    ],
  });

  test('a set-up that works has no failure, and every check that applies has passed', async () => {
    const diagnosis = await stage.examine(`tls,iam,accesspoint=${accessPointId},${direct}`);

    expect(withVerdict(diagnosis, 'FAIL')).toEqual([]);
    expect(withVerdict(diagnosis, 'WARN')).toEqual([]);
    expect(withVerdict(diagnosis, 'PASS')).toEqual(
      expect.arrayContaining(['region', 'tcp', 'tls', 'credentials', 'access', 'access-point', 'nfs']),
    );
    expect(resultOf(diagnosis, 'region').evidence).toBe('us-east-1, this machine in us-east-1a');
    expect(resultOf(diagnosis, 'credentials').evidence).toMatch(
      /^arn:aws:sts::111122223333:assumed-role\/efs-client\/i-0123456789abcdef0, from metadata:efs-client, good for \d+ min$/,
    );
  });

  test('a mount target in another zone than this machine is a warning, with what to write', async () => {
    const examine = (zone: string) => stage.examine(`tls,az=${zone}`, { only: ['region'] });

    expect(await examine('us-east-1a')).toMatchObject({ verdict: 'PASS' });
    expect((await examine('us-east-1b')).results).toMatchObject([
      {
        verdict: 'WARN',
        evidence: 'us-east-1, zone us-east-1b, this machine in us-east-1a',
        fix: expect.stringContaining('az=us-east-1a'),
      },
    ]);
  });

  test.each([
    [
      'a policy that names another role',
      `tls,iam,${direct}`,
      'fs-0123456789abcdef0',
      () => policyFor(`${roleArn}2`),
      ['access'],
      'iam',
      /refused arn:aws:sts::111122223333:assumed-role\/efs-client\/i-0123456789abcdef0: the file system policy does not grant elasticfilesystem:ClientMount/,
    ],
    [
      'iam that was forgotten',
      `tls,${direct}`,
      'fs-0123456789abcdef0',
      () => policyFor(roleArn),
      ['access'],
      'iam',
      /refused an anonymous client/,
    ],
    [
      'an access point of another file system',
      `tls,iam,accesspoint=fsap-0123456789abcdef1,${direct}`,
      'fs-0123456789abcdef0',
      () => policyFor(roleArn),
      ['access', 'access-point'],
      'iam',
      /through fsap-0123456789abcdef1, and lets it in without one|through access point fsap-0123456789abcdef1/,
    ],
    [
      'a directory that does not exist',
      `tls,iam,${direct}`,
      'fs-0123456789abcdef0:/no/such',
      () => policyFor(roleArn),
      ['nfs'],
      'nfs',
      /fs-0123456789abcdef0:\/no\/such does not exist/,
    ],
  ] as const)(
    'doctor tells a refusal by IAM from one by NFS: %s',
    async (_name, options, device, policy, checks, layer, evidence) => {
      writeFileSync(policyFile, JSON.stringify(policy()));

      const diagnosis = await stage.examine(options, { device });

      expect(withVerdict(diagnosis, 'FAIL')).toEqual(checks);
      expect(diagnosis.layer).toBe(layer);
      for (const check of checks) expect(resultOf(diagnosis, check).evidence).toMatch(evidence);
    },
  );
});

describe('what is odd and works is a warning', () => {
  test.each([
    [
      'an fstab line without _netdev',
      (one: DoctorStage) => one.write('fstab', `fs-0123:/ ${one.mountPoint} efs tls 0 0\n`),
      'fstab',
      /without _netdev/,
    ],
    [
      'a watchdog of amazon-efs-utils',
      (one: DoctorStage) => one.standInProcess('4711', ['/usr/bin/python3', one.places.rivalWatchdog]),
      'efs-utils',
      /runs as process 4711/,
    ],
    [
      'an agent of another version',
      (one: DoctorStage) =>
        one.listen((_message, reply) =>
          reply({
            kind: 'status',
            status: {
              version: '9.9.9',
              pid: 1,
              startedAtMs: 0,
              worker: { pid: null, state: 'up', restarts: 0, bufferedBytes: 0 },
              mounts: [],
            },
          }),
        ),
      'agent',
      /version 9\.9\.9/,
    ],
    [
      'a clock that nobody keeps',
      (one: DoctorStage) => one.standIn('timedatectl', 'echo no'),
      'clock',
      /not synchronized/,
    ],
  ] as const)('%s', async (_name, prepare, check, evidence) => {
    await prepare(stage);

    const diagnosis = await stage.examine(null, { only: [check] });

    expect(diagnosis).toMatchObject({ verdict: 'WARN', layer: null });
    expect(diagnosis.results).toHaveLength(1);
    expect(resultOf(diagnosis, check).evidence).toMatch(evidence);
  });

  test.each([
    ['LoadState=not-found\nUnitFileState=\nBefore=\n', 'WARN', /not installed/],
    ['LoadState=loaded\nUnitFileState=disabled\nBefore=remote-fs-pre.target\n', 'WARN', /is disabled/],
    ['LoadState=loaded\nUnitFileState=enabled\nBefore=sockets.target\n', 'WARN', /not ordered before/],
    [
      'LoadState=loaded\nUnitFileState=enabled\nBefore=sockets.target remote-fs-pre.target\n',
      'PASS',
      /is enabled/,
    ],
  ])('systemd that says %j is a %s', async (says, verdict, evidence) => {
    stage.write('systemd', '');
    stage.standIn('systemctl', `printf '${says.replaceAll('\n', '\\n')}'`);

    const diagnosis = await stage.examine(null, { only: ['systemd'] });

    expect(diagnosis.verdict).toBe(verdict);
    expect(resultOf(diagnosis, 'systemd').evidence).toMatch(evidence);
  });
});
