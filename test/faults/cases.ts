import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createIdentities } from '../../src/agent/identities.ts';
import { asAgentError, type FaultCode, renderError } from '../../src/core/errors.ts';
import { exitCodeOf } from '../../src/core/exit-codes.ts';
import { startChild } from '../../src/host/children.ts';
import { systemClock } from '../../src/host/clock.ts';
import { fileSystemId, openAgentStage, targetName, waitFor } from '../support/agent-stage.ts';
import { type Bench, dist, mountWithNames, type Outcome, portRange, whyNoNames } from './bench.ts';

/** A fault that is really made to happen, and what the user sees of it: test/golden/faults.txt. */
export interface Case {
  code: FaultCode;
  /** What happened; names the case in the golden file. */
  name: string;
  inject(bench: Bench): Promise<Outcome>;
  /** Why it cannot be injected here. */
  skip?: string | null;
}

const hourMs = 3_600_000;
const nothing = 'http://127.0.0.1:9';
const deniedByPolicy = 'echo "mount.nfs4: access denied by server while mounting 127.0.0.1:/" >&2; exit 32';
const keys = { AWS_ACCESS_KEY_ID: 'AKIAIOSFODNN7EXAMPLE', AWS_SECRET_ACCESS_KEY: 'not/a/real/key' };

/** mount.efs with these options: nothing but the command line is needed. */
const options = (code: FaultCode, name: string, text: string): Case => ({
  code,
  name,
  inject: (bench) => bench.mount([fileSystemId, bench.agent.mountPoint, '-o', text]),
});

const configured = (bench: Bench, text: string): void =>
  writeFileSync(bench.agent.environment['EFS_AGENT_CONFIG']!, text);

const withKeys = (bench: Bench, changes: Record<string, string> = {}) => ({
  environment: { ...(bench.agent.environment as Record<string, string>), ...keys, ...changes },
});

export const cases: readonly Case[] = [
  {
    code: 'usage',
    name: 'no operands',
    inject: (bench) => bench.mount([]),
  },
  {
    code: 'usage',
    name: 'a command that does not exist',
    inject: (bench) => bench.efsAgent(['mout']),
  },
  {
    code: 'permission.not-root',
    name: 'somebody else than root',
    inject: (bench) => bench.mountDirect('', { uid: 1_000 }),
  },
  {
    code: 'spec.malformed',
    name: 'an id in upper case',
    inject: (bench) => bench.mount(['FS-12', bench.agent.mountPoint, '-o', 'tls']),
  },
  options('option.malformed', 'a port that is no number', 'tls,tlsport=x'),
  options('option.conflict', 'two options that exclude each other', 'tls,port=2049'),
  options('option.requires', 'iam without tls', 'iam'),
  options('option.unsupported', 'an option that cannot be honoured', 'tls,ocsp'),
  options('access-point.malformed', 'an access point id that is too short', 'tls,accesspoint=fsap-12'),
  options('region.malformed', 'a region that is none', 'tls,region=US'),
  options('namespace.unusable', 'a network namespace that does not exist', 'tls,netns=/no/such/namespace'),
  {
    code: 'mountpoint.missing',
    name: 'a mount point that does not exist',
    inject: (bench) => bench.mount([fileSystemId, '/no/such/directory', '-o', 'tls']),
  },
  {
    code: 'mountpoint.not-directory',
    name: 'a mount point that is a file',
    inject: (bench) => bench.mount([fileSystemId, '/etc/passwd', '-o', 'tls']),
  },
  {
    code: 'mountpoint.busy',
    name: 'a mount point where another NFS file system is',
    inject(bench) {
      bench.showMounts(`50 25 0:60 / ${bench.agent.mountPoint} rw - nfs4 server:/ rw,vers=4.1\n`);
      return bench.mountDirect();
    },
  },
  {
    code: 'mountpoint.not-mounted',
    name: 'umount where nothing is mounted',
    inject: (bench) => bench.umount([bench.agent.mountPoint]),
  },
  {
    code: 'umount.failed',
    name: 'a file system that is in use',
    inject(bench) {
      bench.showMounts(
        `50 25 0:60 / ${bench.agent.mountPoint} rw - nfs4 127.0.0.1:/ rw,vers=4.1,port=20049,addr=127.0.0.1\n`,
      );
      bench.agent.standIn('umount', 'echo "umount: /mnt: target is busy." >&2; exit 32');
      return bench.umount([bench.agent.mountPoint]);
    },
  },
  {
    code: 'config.unreadable',
    name: 'a directory in the place of the configuration file',
    inject(bench) {
      const path = bench.agent.environment['EFS_AGENT_CONFIG']!;
      rmSync(path);
      mkdirSync(path);
      return bench.mountDirect();
    },
  },
  {
    code: 'config.malformed',
    name: 'a configuration line that means nothing',
    inject(bench) {
      configured(bench, '[mount]\nwhat is this\n');
      return bench.mountDirect();
    },
  },
  {
    code: 'config.malformed',
    name: 'a policy with a comma too many',
    inject(bench) {
      writeFileSync(join(bench.agent.directory, 'policy.json'), '{\n  "Statement": [],\n}\n');
      return bench.efsAgent(['policy', 'check', 'policy.json', '--as', 'anonymous']);
    },
  },
  {
    code: 'config.invalid',
    name: 'a port that is none',
    inject(bench) {
      bench.agent.configure([], ['mount_target_port = x']);
      return bench.mountDirect();
    },
  },
  {
    code: 'region.unknown',
    name: 'a region that nobody tells',
    inject(bench) {
      configured(bench, `[mount]\n[agent]\nmetadata_endpoint = ${nothing}\n`);
      return bench.mountDirect();
    },
  },
  {
    code: 'zone.unknown',
    name: 'crossaccount where the instance does not tell its zone id',
    inject(bench) {
      bench.agent.configure([], [`metadata_endpoint = ${nothing}`]);
      return bench.mount([fileSystemId, bench.agent.mountPoint, '-o', 'tls,crossaccount']);
    },
  },
  {
    code: 'metadata.unavailable',
    name: 'an identity document that the metadata service does not have',
    async inject(bench) {
      const endpoint = await bench.serveHttp((_request, response) => response.writeHead(404).end());
      const identities = createIdentities({
        clock: systemClock,
        log: () => {},
        home: bench.agent.directory,
        startIdentity: () => startChild(join(dist, 'identity.cjs'), { environment: {} }),
      });
      const asked = identities.instance({ environment: {}, metadataEndpoint: endpoint });
      const error = asAgentError(await asked.then(null, (thrown: unknown) => thrown));
      identities.close();
      return { status: exitCodeOf(error), stderr: renderError('efs-agent', error) };
    },
  },
  {
    code: 'dns.not-found',
    name: 'a name server that knows no such name',
    skip: whyNoNames,
    inject(bench) {
      bench.agent.configure(['fall_back_to_mount_target_ip_address_enabled = false'], []);
      return Promise.resolve(mountWithNames(bench.agent, 'denies'));
    },
  },
  {
    code: 'dns.failed',
    name: 'no name server at all',
    skip: whyNoNames,
    inject(bench) {
      bench.agent.configure(['fall_back_to_mount_target_ip_address_enabled = false'], []);
      return Promise.resolve(mountWithNames(bench.agent, 'absent'));
    },
  },
  {
    code: 'target.refused',
    name: 'a port where nothing listens',
    inject(bench) {
      bench.agent.configure([], ['mount_target_port = 9']);
      return bench.mountDirect();
    },
  },
  {
    code: 'target.silent',
    name: 'a server that accepts and says nothing',
    async inject(bench) {
      await bench.serve(() => {}, ['dial_timeout_sec = 1']);
      return bench.mountDirect();
    },
  },
  {
    code: 'target.unreachable',
    name: 'an address without a route',
    inject: (bench) =>
      bench.mount([fileSystemId, bench.agent.mountPoint, '-o', 'tls,mounttargetip=255.255.255.255']),
  },
  {
    code: 'target.closed',
    name: 'a server that hangs up',
    async inject(bench) {
      await bench.serve((socket) => socket.end());
      return bench.mountDirect();
    },
  },
  {
    code: 'target.closed',
    name: 'a server that hangs up after the TLS handshake, on an anonymous client',
    inject: (bench) => turnAway(bench, ''),
  },
  {
    code: 'access.denied',
    name: 'a server that hangs up after the TLS handshake, on an identity',
    inject: (bench) => turnAway(bench, 'iam'),
  },
  {
    code: 'access.denied',
    name: 'a policy that refuses anonymous clients',
    async inject(bench) {
      await bench.agent.startTarget();
      bench.agent.standIn('mount.nfs4', deniedByPolicy);
      return bench.mountDirect();
    },
  },
  {
    code: 'access.denied',
    name: 'a policy that refuses an identity through an access point',
    async inject(bench) {
      await bench.agent.startTarget();
      bench.agent.standIn('mount.nfs4', deniedByPolicy);
      return bench.mountDirect('iam,accesspoint=fsap-0123456789abcdef0', await withCaller(bench));
    },
  },
  {
    code: 'tls.name-mismatch',
    name: 'a certificate for another name',
    async inject(bench) {
      await bench.agent.startTarget({ names: ['*.example.com'] });
      return bench.mountDirect();
    },
  },
  {
    code: 'tls.expired',
    name: 'a certificate that has expired',
    async inject(bench) {
      const [notBeforeMs, notAfterMs] = [Date.now() - 3 * hourMs, Date.now() - hourMs];
      await bench.agent.startTarget({ names: [targetName], notBeforeMs, notAfterMs });
      return bench.mountDirect();
    },
  },
  {
    code: 'tls.untrusted',
    name: 'a certificate of another authority',
    async inject(bench) {
      const other = openAgentStage(portRange);
      const target = await other.startTarget();
      bench.agent.configure([], [`mount_target_port = ${target.port}`]);
      const outcome = await bench.mountDirect();
      await other.close();
      return outcome;
    },
  },
  {
    code: 'tls.failed',
    name: 'a server that does not speak TLS',
    async inject(bench) {
      await bench.serve((socket) => void socket.write('220 mail.example.com ESMTP\r\n'));
      return bench.mountDirect();
    },
  },
  options(
    'ca-file.unreadable',
    'a certificate authority file that is not there',
    'tls,cafile=/no/such/ca.pem',
  ),
  {
    code: 'credentials.missing',
    name: 'an instance without a role',
    async inject(bench) {
      // A metadata service that gives a session and knows of no role.
      const endpoint = await bench.serveHttp((request, response) =>
        request.method === 'PUT' ? response.end('session') : response.writeHead(404).end(),
      );
      const { port } = await bench.agent.startTarget();
      bench.agent.configure([], [`mount_target_port = ${port}`, `metadata_endpoint = ${endpoint}`]);
      return bench.mountDirect('iam');
    },
  },
  {
    code: 'credentials.metadata-silent',
    name: 'no credentials, and no metadata service',
    async inject(bench) {
      const { port } = await bench.agent.startTarget();
      bench.agent.configure([], [`mount_target_port = ${port}`, `metadata_endpoint = ${nothing}`]);
      return bench.mountDirect('iam');
    },
  },
  {
    code: 'credentials.profile-missing',
    name: 'a profile that does not exist',
    async inject(bench) {
      await bench.agent.startTarget();
      return bench.mountDirect('iam,awsprofile=nobody');
    },
  },
  {
    code: 'credentials.rejected',
    name: 'a role that may not be assumed',
    async inject(bench) {
      await bench.agent.startTarget();
      const token = join(bench.agent.directory, 'token');
      writeFileSync(token, 'web.identity.token');
      const endpoint = await bench.serveHttp((_request, response) =>
        response
          .writeHead(403, { 'content-type': 'text/xml' })
          .end(
            '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>',
          ),
      );
      return bench.mountDirect(`iam,rolearn=arn:aws:iam::111122223333:role/efs-client,jwtpath=${token}`, {
        environment: {
          ...(bench.agent.environment as Record<string, string>),
          AWS_ENDPOINT_URL_STS: endpoint,
        },
      });
    },
  },
  {
    code: 'credentials.failed',
    name: 'half a pair of keys in the environment',
    async inject(bench) {
      await bench.agent.startTarget();
      return bench.mountDirect('iam', withKeys(bench, { AWS_SECRET_ACCESS_KEY: '' }));
    },
  },
  {
    code: 'port.taken',
    name: 'a tlsport that is taken',
    async inject(bench) {
      const { port } = await bench.serve(() => {});
      return bench.mountDirect(`tlsport=${port}`);
    },
  },
  {
    code: 'port.exhausted',
    name: 'a range of two ports, both taken',
    async inject(bench) {
      const port = await bench.holdTwoPorts();
      configured(
        bench,
        `[mount]\nregion = us-east-1\nstunnel_cafile = ${join(bench.agent.directory, 'ca.pem')}\nport_range_lower_bound = ${port}\nport_range_upper_bound = ${port + 2}\n`,
      );
      return bench.mountDirect();
    },
  },
  {
    code: 'nfs.program-missing',
    name: 'a mount.nfs4 that cannot be run',
    async inject(bench) {
      await bench.agent.startTarget();
      writeFileSync(join(bench.agent.directory, 'bin/mount.nfs4'), '#!/no/such/interpreter\n');
      return bench.mountDirect();
    },
  },
  {
    code: 'nfs.failed',
    name: 'an option that mount.nfs4 does not know',
    async inject(bench) {
      await bench.agent.startTarget();
      bench.agent.standIn(
        'mount.nfs4',
        'echo "mount.nfs4: an incorrect mount option was specified" >&2; exit 32',
      );
      return bench.mountDirect('colour=blue');
    },
  },
  {
    code: 'nfs.timeout',
    name: 'a mount.nfs4 that does not end',
    async inject(bench) {
      const { port } = await bench.agent.startTarget();
      bench.agent.configure(
        ['retry_nfs_mount_command = false'],
        [`mount_target_port = ${port}`, 'max_connections = 1'],
      );
      bench.agent.standIn('mount.nfs4', 'exec sleep 60');
      return bench.mountDirect('', { limits: { ...bench.caller().limits, lastAttemptMs: 500 } });
    },
  },
  {
    code: 'agent.unreachable',
    name: 'an agent that hangs up',
    inject: async (bench) =>
      bench.mountDirect('', {
        environment: await bench.openRival((socket) => socket.once('data', () => socket.end())),
      }),
  },
  {
    code: 'agent.protocol',
    name: 'something else on the control socket',
    inject: async (bench) =>
      bench.mountDirect('', {
        environment: await bench.openRival((socket) => void socket.write('HTTP/1.1 400 Bad Request\r\n\r\n')),
      }),
  },
  {
    code: 'agent.start-failed',
    name: 'a file in the place of the runtime directory',
    inject(bench) {
      writeFileSync(join(bench.agent.directory, 'in-the-way'), '');
      return bench.mountDirect('', {
        environment: {
          ...(bench.agent.environment as Record<string, string>),
          EFS_AGENT_RUNTIME_DIR: join(bench.agent.directory, 'in-the-way'),
        },
      });
    },
  },
  {
    code: 'agent.busy',
    name: 'a second agent in the same runtime directory',
    inject: (bench) => bench.agent.start(join(dist, 'agent.cjs'), []).ended,
  },
  {
    code: 'runtime-dir.unusable',
    name: 'a runtime directory below a file',
    async inject() {
      const stage = openAgentStage(portRange);
      stage.environment['EFS_AGENT_RUNTIME_DIR'] = '/etc/passwd/run';
      const outcome = await stage.start(join(dist, 'agent.cjs'), []).ended;
      await stage.close();
      return outcome;
    },
  },
  {
    code: 'tunnel.worker-lost',
    name: 'two workers that are killed while they dial',
    async inject(bench) {
      const target = await bench.serve(() => {});
      const mounting = bench.mountDirect();
      for (const dials of [1, 2]) {
        await waitFor(() => target.accepted() >= dials, 'the worker to dial');
        process.kill((await bench.agent.status()).worker!.pid!, 'SIGKILL');
      }
      return mounting;
    },
  },
  {
    code: 'interrupted',
    name: 'Ctrl-C while the mount target is silent',
    async inject(bench) {
      const target = await bench.serve(() => {});
      const controller = new AbortController();
      const mounting = bench.mountDirect('', { interruption: controller.signal });
      await waitFor(() => target.accepted() > 0, 'the worker to dial');
      controller.abort();
      return mounting;
    },
  },
  {
    code: 'bundle.failed',
    name: 'a support archive that is there already',
    inject: (bench) => bench.efsAgent(['bundle', '-o', 'ca.pem']),
  },
  {
    code: 'cloudwatch.failed',
    name: 'CloudWatch Logs that refuses, which no mount notices',
    async inject(bench) {
      const endpoint = await bench.serveHttp((_request, response) =>
        response
          .writeHead(400, { 'content-type': 'application/x-amz-json-1.1' })
          .end(JSON.stringify({ __type: 'AccessDeniedException' })),
      );
      const { port } = await bench.agent.startTarget();
      writeFileSync(
        bench.agent.environment['EFS_AGENT_CONFIG']!,
        `[mount]\nregion = us-east-1\nstunnel_cafile = ${join(bench.agent.directory, 'ca.pem')}\n[cloudwatch-log]\nenabled = true\n[agent]\nmount_target_port = ${port}\nmax_connections = 1\n`,
      );
      bench.agent.standIn('mount.nfs4', 'echo "mount.nfs4: no" >&2; exit 32');
      const from = bench.log().length;
      const { status } = await bench.mountDirect(
        '',
        withKeys(bench, { AWS_ENDPOINT_URL_CLOUDWATCH_LOGS: endpoint }),
      );
      await waitFor(() => bench.log().includes(' cloudwatch.failed ', from), 'the line in the log');
      const line = bench
        .log()
        .slice(from)
        .split('\n')
        .find((one) => one.includes(' cloudwatch.failed '))!;
      return { status, stderr: `${line.replace(/^\S+ /, '')}\n` };
    },
  },
  {
    code: 'internal',
    name: 'a kernel that shows no mount table',
    inject: (bench) =>
      bench.mountDirect('', { files: { ...bench.caller().files, mountInfo: '/no/such/mountinfo' } }),
  },
];

/** Keys in the environment, and an STS that knows whose they are. */
async function withCaller(bench: Bench) {
  const endpoint = await bench.serveHttp((_request, response) =>
    response
      .writeHead(200, { 'content-type': 'text/xml' })
      .end(
        '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>arn:aws:iam::111122223333:user/someone</Arn><UserId>x</UserId><Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>',
      ),
  );
  return withKeys(bench, { AWS_ENDPOINT_URL_STS: endpoint });
}

/** A mount target that ends every connection as soon as it has been asked something, and a mount.nfs4 that asks. */
async function turnAway(bench: Bench, more: string): Promise<Outcome> {
  const { port } = await bench.agent.startTarget({ names: [targetName] }, (socket) =>
    socket.on('data', () => socket.end()),
  );
  bench.agent.configure(
    ['retry_nfs_mount_command = false'],
    [`mount_target_port = ${port}`, 'max_connections = 1'],
  );
  writeFileSync(
    join(bench.agent.directory, 'ask.cjs'),
    `const port = Number(/port=(\\d+)/.exec(process.argv.join(' '))[1]);
const socket = require('node:net').connect(port, '127.0.0.1', () => socket.write(Buffer.alloc(44)));
socket.on('error', () => {}).on('close', () => {
  process.stderr.write('mount.nfs4: mount system call failed\\n');
  process.exit(32);
});`,
  );
  bench.agent.standIn(
    'mount.nfs4',
    `exec "${process.execPath}" "${join(bench.agent.directory, 'ask.cjs')}" "$@"`,
  );
  return bench.mountDirect(more, more === 'iam' ? await withCaller(bench) : {});
}
