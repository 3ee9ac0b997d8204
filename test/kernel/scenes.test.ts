import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { testInVm } from '../support/vm.ts';
import {
  dnsName,
  fileSystem,
  openSetting,
  policyFor,
  roleArn,
  type ServiceEvent,
  type Setting,
} from './setting.ts';

let setting: Setting;
beforeAll(async () => {
  setting = await openSetting();
});
afterEach(() => setting?.vm.run('umount -f -l /mount/efs'));
// Registered last, it runs first.
afterEach((context) => setting?.explain(context));
afterAll(() => setting?.close());

const mount = (options: string) =>
  setting.vm.run(`mount -t efs -o ${options} ${fileSystem} /mount/efs`, { timeoutMs: 120_000 });
const shell = async (command: string) => (await setting.vm.run(command)).stdout;
const connections = (events: ServiceEvent[]) =>
  events.filter(({ eventName }) => eventName === 'NewClientConnection');

testInVm(
  'scene 1: the role that the policy names mounts, and mount, df and ss show what they show with the reference',
  async () => {
    await setting.takeEvents();

    const mounted = await mount('tls,iam');

    expect(mounted).toEqual({ code: 0, stdout: '', stderr: '' });
    expect(await shell('df -hT -t nfs4')).toMatch(/^127\.0\.0\.1:\/ +nfs4 .* \/mount\/efs$/m);
    const line = await shell('mount | grep nfs4');
    expect(line).toMatch(
      /^127\.0\.0\.1:\/ on \/mount\/efs type nfs4 \(rw,relatime,vers=4\.1,rsize=1048576,wsize=1048576,namlen=255,hard,noresvport,proto=tcp,port=\d+,timeo=600,retrans=2,sec=sys,clientaddr=127\.0\.0\.1,local_lock=none,addr=127\.0\.0\.1\)\n$/,
    );
    const port = /port=(\d+)/.exec(line)![1];
    const sockets = await shell('ss -antp');
    expect(sockets).toMatch(new RegExp(`^LISTEN .* 127\\.0\\.0\\.1:${port} .*node`, 'm'));
    expect(sockets).toMatch(new RegExp(`^ESTAB .* 127\\.0\\.0\\.1:${port} .*node`, 'm'));
    expect(sockets).toMatch(/^ESTAB .* 10\.1\.1\.10:\d+ +10\.1\.1\.6:2049 .*node/m);
  },
);

testInVm(
  'scene 1: the service records the role, its session, its key and all three permissions',
  async () => {
    await setting.takeEvents();
    await mount('tls,iam');
    await shell('ls /mount/efs');

    const events = connections(await setting.takeEvents());

    expect(events).not.toEqual([]);
    expect(events.at(-1)).toMatchObject({
      eventSource: 'elasticfilesystem.amazonaws.com',
      eventType: 'AwsServiceEvent',
      eventCategory: 'Management',
      readOnly: true,
      userIdentity: {
        type: 'AssumedRole',
        arn: 'arn:aws:sts::111122223333:assumed-role/efs-client/i-0123456789abcdef0',
        accessKeyId: expect.stringMatching(/^ASIA/),
        sessionContext: { sessionIssuer: { arn: roleArn } },
      },
      resources: [{ ARN: `arn:aws:elasticfilesystem:us-east-1:111122223333:file-system/${fileSystem}` }],
      serviceEventDetails: {
        permissions: { ClientMount: true, ClientWrite: true, ClientRootAccess: true },
        sourceIpAddress: '10.1.1.10',
      },
    });
    expect(events.at(-1)).not.toHaveProperty('errorCode');
  },
);

testInVm(
  'scene 1: what root writes comes back with the same checksum after the cache is dropped, and belongs to root',
  async () => {
    await mount('tls,iam');

    const written = await shell('head -c 4M /dev/urandom > /mount/efs/file && sha256sum < /mount/efs/file');
    await shell('umount /mount/efs');
    await mount('tls,iam');
    const read = await shell('sha256sum < /mount/efs/file');

    expect(written).toMatch(/^[0-9a-f]{64} /);
    expect(read).toBe(written);
    expect(await shell('stat -c %u /mount/efs/file')).toBe('0\n');
  },
);

testInVm('scene 1: after umount no listener, connection or state of the mount remains', async () => {
  await mount('tls,iam');

  const unmounted = await setting.vm.run('umount /mount/efs');

  expect(unmounted).toEqual({ code: 0, stdout: '', stderr: '' });
  await setting.expectNothingLeft();
});

testInVm('scene 2: plain NFS straight to the mount target is denied and recorded as anonymous', async () => {
  await setting.takeEvents();

  const mounted = await setting.vm.run(`mount -t nfs4 -o nfsvers=4.1 ${dnsName}:/ /mount/efs`);

  expect(mounted.code).toBe(32);
  expect(mounted.stderr).toContain('access denied by server while mounting');
  expect(connections(await setting.takeEvents()).at(-1)).toMatchObject({
    errorCode: 'AccessDenied',
    userIdentity: { type: 'AWSAccount', accountId: 'ANONYMOUS_PRINCIPAL' },
    serviceEventDetails: { permissions: { ClientMount: false, ClientWrite: false, ClientRootAccess: false } },
  });
});

testInVm(
  'scene 3: tls without iam fails with the words of mount.nfs4, says that iam was missing, and exits 32',
  async () => {
    await setting.takeEvents();

    const mounted = await mount('tls');

    expect(mounted.code).toBe(32);
    expect(mounted.stderr).toContain('mount.nfs4: access denied by server while mounting 127.0.0.1:/\n');
    expect(mounted.stderr).toContain('"iam" was not given');
    expect(mounted.stderr).toContain('elasticfilesystem:ClientMount');
    await setting.expectNothingLeft();
  },
);

testInVm(
  'scene 3: on the wire the mount target answers the NULL call and one more with 52 bytes, the next connection with 24',
  async () => {
    await setting.takeEvents();
    await mount('tls');
    const closed: ServiceEvent[] = [];

    await expect
      .poll(
        async () => {
          closed.push(
            ...(await setting.takeEvents()).filter(({ eventName }) => eventName === 'ConnectionClosed'),
          );
          return closed.map(({ bytesSent }) => bytesSent);
        },
        { timeout: 120_000 },
      )
      .toEqual([52, 24]);
    // The call that is refused is as long as the client's host name makes it; the NULL call before it has 44 bytes.
    const [first, second] = closed.map(({ bytesReceived }) => bytesReceived as number);
    expect(first! - second!).toBe(44);
  },
);

testInVm(
  'scene 4: with no policy at all, plain NFS and tls without iam mount, and are recorded as anonymous',
  async ({ onTestFinished }) => {
    await setting.setPolicy(null);
    onTestFinished(() => setting.setPolicy(policyFor(roleArn)));
    const granted = {
      userIdentity: { accountId: 'ANONYMOUS_PRINCIPAL' },
      serviceEventDetails: { permissions: { ClientMount: true, ClientWrite: true, ClientRootAccess: true } },
    };

    const plain = await setting.vm.run(
      `mount -t nfs4 -o nfsvers=4.1 ${dnsName}:/ /mount/efs && umount /mount/efs`,
    );
    const plainEvents = connections(await setting.takeEvents());
    const overTls = await mount('tls');
    const tlsEvents = connections(await setting.takeEvents());

    expect(plain).toMatchObject({ code: 0, stderr: '' });
    expect(plainEvents.at(-1)).toMatchObject(granted);
    expect(overTls).toEqual({ code: 0, stdout: '', stderr: '' });
    expect(tlsEvents.at(-1)).toMatchObject(granted);
  },
);
