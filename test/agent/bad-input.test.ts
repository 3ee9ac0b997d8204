import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type AgentStage, fileSystemId, openAgentStage, targetName } from '../support/agent-stage.ts';

const portRange: [number, number] = [23050, 23069];
const hourMs = 3_600_000;

let stage: AgentStage;
let servers: Server[];
/** Connections that a silent server has accepted. */
let accepted: Socket[];
beforeEach(() => {
  stage = openAgentStage(portRange);
  servers = [];
  accepted = [];
});
afterEach(async () => {
  for (const socket of accepted) socket.destroy();
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  await stage.close();
});

interface BadInput {
  name: string;
  /** Options of the mount; the target is on 127.0.0.1. */
  options?: string;
  device?: string;
  mountPoint?: (stage: AgentStage) => string;
  prepare?: (stage: AgentStage) => Promise<void>;
  status: number;
  /** All of stderr, with `{dir}` for the stage's directory and `{port}` for every other port number. */
  stderr: string;
}

const direct = 'mounttargetip=127.0.0.1';

const table: BadInput[] = [
  {
    name: 'a malformed file system id',
    device: 'FS-12',
    status: 1,
    stderr: `mount.efs: "FS-12" is not a file system id: write its letters in lower case [spec.malformed]
  Write fs-<hex digits>[:/path], for example fs-0123abcd:/app.
`,
  },
  {
    name: 'a malformed access point',
    options: `tls,${direct},accesspoint=fsap-12`,
    status: 1,
    stderr: `mount.efs: Access Point ID fsap-12 is malformed [access-point.malformed]
  Write accesspoint=fsap- followed by 17 lower-case hexadecimal digits.
`,
  },
  {
    name: 'two options that exclude each other',
    options: `tls,port=2049,${direct}`,
    status: 1,
    stderr: `mount.efs: The "port" and "tls" options are mutually exclusive [option.conflict]
  Give only one of the two options.
`,
  },
  {
    name: 'an option that only mount.nfs4 can know, and does not',
    options: `tls,${direct},colour=blue`,
    prepare: async (stage) => {
      await stage.startTarget();
      stage.standIn('mount.nfs4', 'echo "mount.nfs4: an incorrect mount option was specified" >&2; exit 32');
    },
    status: 32,
    stderr: `mount.nfs4: an incorrect mount option was specified
mount.efs: mount.nfs4 could not mount ${fileSystemId}:/ (${fileSystemId}.efs.us-east-1.amazonaws.com) and exited with status 32 [nfs.failed]
  Read the message of mount.nfs4 above; see also dmesg.
`,
  },
  {
    name: 'an option of the reference that cannot be honoured',
    options: `tls,${direct},ocsp`,
    status: 1,
    stderr: `mount.efs: Unsupported mount options detected: "ocsp" [option.unsupported]
  Leave it out: efs-agent makes no OCSP check, and says so rather than skip one.
`,
  },
  {
    name: 'a mount point that does not exist',
    mountPoint: (stage) => join(stage.directory, 'nowhere'),
    status: 32,
    stderr: `mount.efs: mount point {dir}/nowhere does not exist [mountpoint.missing]
  Create the directory first: mkdir -p <directory>.
`,
  },
  {
    name: 'a mount point that is a file',
    mountPoint: (stage) => {
      writeFileSync(join(stage.directory, 'file'), '');
      return join(stage.directory, 'file');
    },
    status: 32,
    stderr: `mount.efs: mount point {dir}/file is not a directory [mountpoint.not-directory]
  Name a directory as the mount point.
`,
  },
  {
    name: 'a mount target that refuses connections',
    prepare: async (stage) => {
      const target = await stage.startTarget();
      await target.close();
    },
    status: 32,
    stderr: `mount.efs: Cannot connect to file system mount target ip address 127.0.0.1: 127.0.0.1:{port} refused the connection after {n} ms [target.refused]
  Check the address: nothing listens on that port there.
`,
  },
  {
    name: 'a mount target that accepts and says nothing',
    prepare: async (stage) => {
      const silent = createServer((socket) => {
        socket.on('error', () => {});
        accepted.push(socket);
      });
      servers.push(silent);
      silent.listen(0, '127.0.0.1');
      await once(silent, 'listening');
      const { port } = silent.address() as AddressInfo;
      stage.configure([], [`mount_target_port = ${port}`, 'dial_timeout_sec = 1']);
    },
    status: 32,
    stderr: `mount.efs: Cannot connect to file system mount target ip address 127.0.0.1: 127.0.0.1:{port} accepted the connection and did not finish the TLS handshake within {n} ms [target.silent]
  Allow TCP 2049 from this instance to the mount target in its security group, and check the route.
`,
  },
  {
    name: 'a server certificate for another name',
    prepare: async (stage) => {
      await stage.startTarget({ names: ['*.example.com'] });
    },
    status: 32,
    stderr: `mount.efs: 127.0.0.1:{port} presented a certificate for *.example.com, not for ${fileSystemId}.efs.us-east-1.amazonaws.com [tls.name-mismatch]
  The address belongs to another server: check mounttargetip, DNS and /etc/hosts.
`,
  },
  {
    name: 'a server certificate from an unknown certificate authority',
    prepare: async (stage) => {
      await stage.startTarget();
      const other = openAgentStage(portRange);
      writeFileSync(join(stage.directory, 'ca.pem'), other.ca.rootPem);
      await other.close();
    },
    status: 32,
    stderr: `mount.efs: 127.0.0.1:{port} presented a certificate issued by CN=Temporary Test Root, which no trusted root vouches for (CERT_SIGNATURE_FAILURE) [tls.untrusted]
  Check cafile or stunnel_cafile: it must hold the root that signed the server certificate.
`,
  },
  {
    name: 'no credentials anywhere',
    options: `tls,iam,${direct}`,
    prepare: async (stage) => {
      const target = await stage.startTarget();
      stage.configure([], [`mount_target_port = ${target.port}`, 'metadata_endpoint = http://127.0.0.1:9']);
    },
    status: 32,
    stderr: `mount.efs: AWS Access Key ID and Secret Access Key are not found in AWS credentials file, in AWS config file, from ECS credentials relative uri, or from the instance security credentials service. Tried: profile [default] of {dir}/.aws/credentials and {dir}/.aws/config: no aws_access_key_id; ECS: AWS_CONTAINER_CREDENTIALS_RELATIVE_URI not set; EKS pod identity: AWS_CONTAINER_CREDENTIALS_FULL_URI and AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE not set; web identity: AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE not set; instance role: instance metadata at http://127.0.0.1:{port}: no answer: ECONNREFUSED [credentials.metadata-silent]
  Check that the instance metadata service is enabled; in a container raise its hop limit to 2.
`,
  },
  {
    name: 'a refusal by policy without iam',
    prepare: async (stage) => {
      await stage.startTarget();
      stage.standIn(
        'mount.nfs4',
        'echo "mount.nfs4: access denied by server while mounting 127.0.0.1:/" >&2; exit 32',
      );
    },
    status: 32,
    stderr: `mount.nfs4: access denied by server while mounting 127.0.0.1:/
mount.efs: ${fileSystemId} refused this anonymous client: the option "iam" was not given, and the file system policy does not grant elasticfilesystem:ClientMount to everyone [access.denied]
  Add the option iam, or allow anonymous clients in the file system policy.
`,
  },
  {
    name: 'a certificate authority file that is not there',
    options: `tls,${direct},cafile=/nowhere/ca.pem`,
    status: 32,
    stderr: `mount.efs: Failed to find certificate authority file for verification: /nowhere/ca.pem (ENOENT) [ca-file.unreadable]
  Name a readable PEM file in cafile or stunnel_cafile.
`,
  },
  {
    name: 'a configuration file with a line that means nothing',
    prepare: async (stage) => {
      writeFileSync(join(stage.directory, 'efs-utils.conf'), '[mount]\nwhat is this\n');
    },
    status: 2,
    stderr: `mount.efs: {dir}/efs-utils.conf:2: the line is not "key = value" [config.malformed]
  Correct the line that is named in the configuration file.
`,
  },
];

test.each(table)('$name gives one clear error and leaves nothing behind', async (row) => {
  await stage.startAgent();
  await row.prepare?.(stage);
  const mountPoint = row.mountPoint?.(stage) ?? stage.mountPoint;

  const ended = await stage.mountEfs(
    row.device ?? fileSystemId,
    mountPoint,
    '-o',
    row.options ?? `tls,${direct}`,
  );

  expect(mask(ended.stderr)).toBe(row.stderr);
  expect(ended).toMatchObject({ status: row.status, stdout: '' });
  expect(stage.stateFiles()).toEqual([]);
  await expectPortsFree();
});

test('a name that does not resolve is named in the error', async () => {
  await stage.startAgent();
  stage.configure(['dns_name_suffix = invalid'], []);

  const ended = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', 'tls');

  expect(ended.status).toBe(32);
  expect(ended.stderr).toMatch(
    new RegExp(
      `^mount.efs: Failed to resolve "${fileSystemId}.efs.us-east-1.invalid": .* \\[dns\\.(not-found|failed)\\]\n`,
    ),
  );
  expect(stage.stateFiles()).toEqual([]);
});

test('an expired server certificate is told from an untrusted one, with both clocks', async () => {
  await stage.startAgent();
  await stage.startTarget({
    names: [targetName],
    notBeforeMs: Date.now() - 3 * hourMs,
    notAfterMs: Date.now() - hourMs,
  });

  const ended = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', `tls,${direct}`);

  expect(ended.status).toBe(32);
  expect(ended.stderr).toMatch(
    /^mount\.efs: 127\.0\.0\.1:\d+ presented a certificate that has expired: .*, and the time here is .* \[tls\.expired\]\n {2}Check the clock/,
  );
});

test('a port that is taken is named', async () => {
  await stage.startAgent();
  await stage.startTarget();
  const holder = createServer();
  servers.push(holder);
  holder.listen(0, '127.0.0.1');
  await once(holder, 'listening');
  const { port } = holder.address() as AddressInfo;

  const ended = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', `tls,${direct},tlsport=${port}`);

  expect(ended.status).toBe(32);
  expect(
    ended.stderr,
  ).toBe(`mount.efs: Specified port [${port}] is unavailable: something else listens on 127.0.0.1:${port} [port.taken]
  Choose another tlsport, or leave the option out.
`);
});

test('an agent that cannot start says why', async () => {
  writeFileSync(stage.runtimeDir, 'a file in the way');

  const ended = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', `tls,${direct}`);

  expect(ended.status).toBe(2);
  expect(ended.stderr).toMatch(/\[agent\.start-failed\]/);
});

function mask(text: string): string {
  return text
    .replaceAll(stage.directory, '{dir}')
    .replace(/127\.0\.0\.1:\d+/g, '127.0.0.1:{port}')
    .replace(/ \d+ ms/g, ' {n} ms');
}

/** Nothing of ours listens any more: each port of the range can be bound. */
async function expectPortsFree(): Promise<void> {
  for (let port = portRange[0]; port <= portRange[1]; port += 1) {
    const probe = createServer();
    probe.listen(port, '127.0.0.1');
    await once(probe, 'listening');
    await new Promise((resolve) => probe.close(resolve));
  }
}
