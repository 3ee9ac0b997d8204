import { readFileSync } from 'node:fs';
import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { testInVm } from '../support/vm.ts';
import {
  accessPoints,
  fileSystem,
  openSetting,
  roleArn,
  type ServiceEvent,
  type Setting,
} from './setting.ts';

let setting: Setting;
/** What the program saw that replays scenes 1 to 6 in an account, played here: its whole text, and how it ended. */
let replayed: Awaited<ReturnType<Setting['vm']['run']>>;
beforeAll(async () => {
  setting = await openSetting();
  replayed = await replay();
});
afterEach(() => setting?.vm.run('umount -f -l /mount/efs'));
// Registered last, it runs first.
afterEach((context) => setting?.explain(context));
afterAll(() => setting?.close());

const mount = (options: string) =>
  setting.vm.run(`mount -t efs -o ${options} ${fileSystem} /mount/efs`, { timeoutMs: 120_000 });

async function replay() {
  const put = (from: string, to: string) => setting.must(`cat > ${to}`, readFileSync(from, 'utf8'));
  await setting.must('mkdir -p /root/replay');
  for (const name of ['observed.txt', 'replay.mjs']) await put(`contrib/cdk/${name}`, `/root/replay/${name}`);
  await put('test/support/stand-in/aws', '/usr/local/bin/aws && chmod +x /usr/local/bin/aws');
  const points = accessPoints.slice(0, 2).map(({ id, uid }) => `--access-point ${id}=${uid}`);
  const where = `--file-system ${fileSystem} --role ${roleArn} --region us-east-1 ${points.join(' ')}`;
  return setting.vm.run(`node /root/replay/replay.mjs ${where} --settle 0`, { timeoutMs: 800_000 });
}

/** What was seen in one scene: each command of it with what it said. */
function seenIn(title: string): string {
  const scenes = replayed.stdout.split(/^(?=== )/m);
  return scenes.find((scene) => scene.startsWith(`== ${title}\n`)) ?? expect.fail(`there is no ${title}`);
}

/** The events that the service recorded of a scene. */
function recordedIn(title: string): Record<string, unknown>[] {
  const lines = seenIn(title).split('\nrecorded:\n')[1]!.split('\n').filter(Boolean);
  return lines.map((line) => JSON.parse(line));
}

const granted = { ClientMount: true, ClientWrite: true, ClientRootAccess: true };
const denied = { ClientMount: false, ClientWrite: false, ClientRootAccess: false };
const anonymous = { type: 'AWSAccount', accountId: 'ANONYMOUS_PRINCIPAL' };
const silentMount = '# mount -t efs -o tls,iam FILE-SYSTEM /mount/efs\n#';

testInVm('the program that replays scenes 1 to 6 in an account sees here what it keeps as seen', async () => {
  await expect(replayed.stdout).toMatchFileSnapshot('../../contrib/cdk/observed.txt');
  expect(replayed).toMatchObject({
    code: 0,
    stderr: expect.stringMatching(/^Every observation is that of the local mount target\.$/m),
  });
});

testInVm(
  'scene 1: the role that the policy names mounts, and mount, df and ss show what they show with the reference',
  () => {
    const seen = seenIn('1. Mounting with IAM');

    expect(seen).toContain(silentMount);
    expect(seen).toContain('\n127.0.0.1:/ nfs4 /mount/efs\n');
    expect(seen).toContain(
      '\n127.0.0.1:/ on /mount/efs type nfs4 (rw,relatime,vers=4.1,rsize=1048576,wsize=1048576,namlen=255,hard,noresvport,proto=tcp,port=PORT,timeo=600,retrans=2,sec=sys,clientaddr=127.0.0.1,local_lock=none,addr=127.0.0.1)\n',
    );
    expect(seen).toContain('\nLISTEN 127.0.0.1:PORT\n');
    expect(seen).toContain('\nESTAB 127.0.0.1:PORT 127.0.0.1:ANY\n');
    expect(seen).toContain('\nESTAB INSTANCE:ANY TARGET:2049\n');
  },
);

testInVm('scene 1: the service records the role, its session, its key and all three permissions', () => {
  const [event, ...more] = recordedIn('1. Mounting with IAM');

  expect(more).toEqual([]);
  expect(event).toMatchObject({
    identity: { type: 'AssumedRole', arn: 'SESSION', accessKeyId: 'ASIA-KEY' },
    issuer: 'ROLE',
    permissions: granted,
    from: 'INSTANCE',
    resources: ['arn:aws:elasticfilesystem:REGION:ACCOUNT:file-system/FILE-SYSTEM'],
    source: expect.arrayContaining(['elasticfilesystem.amazonaws.com', 'AwsServiceEvent', 'Management']),
    readOnly: true,
  });
  expect(event).not.toHaveProperty('errorCode');
});

testInVm(
  'scene 1: what root writes comes back with the same checksum after the cache is dropped, and belongs to root',
  () => {
    expect(seenIn('1. Mounting with IAM')).toMatch(
      /^# sha256sum < \S+ \| cmp - \S+ && stat .*\n0:0 4194304\n/m,
    );
  },
);

testInVm('scene 1: after umount no listener, connection or state of the mount remains', async () => {
  await mount('tls,iam');

  const unmounted = await setting.vm.run('umount /mount/efs');

  expect(unmounted).toEqual({ code: 0, stdout: '', stderr: '' });
  await setting.expectNothingLeft();
});

testInVm('scene 2: plain NFS straight to the mount target is denied and recorded as anonymous', () => {
  expect(seenIn('2. Anonymous, plain NFS')).toMatch(
    /^mount\.nfs4: access denied by server while mounting FILE-SYSTEM\S+\nstatus 32$/m,
  );
  expect(recordedIn('2. Anonymous, plain NFS')).toMatchObject([
    { errorCode: 'AccessDenied', identity: anonymous, permissions: denied },
  ]);
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
          return closed.slice(0, 2).map(({ bytesSent }) => bytesSent);
        },
        { timeout: 120_000 },
      )
      .toEqual([52, 24]);
    // The call that is refused is as long as the client's host name makes it; the NULL call before it has 44 bytes.
    // A kernel that is told of the end before it has read the refusal makes that call once more, over a third connection.
    const bytes = closed.map(({ bytesReceived, bytesSent }) => [bytesReceived as number, bytesSent]);
    const refused = bytes[1]![0] as number;
    expect(bytes).toEqual([[refused + 44, 52], ...Array(bytes.length - 1).fill([refused, 24])]);
  },
);

testInVm(
  'scene 4: with no policy at all, plain NFS and tls without iam mount, and are recorded as anonymous',
  () => {
    const seen = seenIn('4. The default policy');

    expect(seen).not.toMatch(/^(mount|umount|status)/m);
    expect(recordedIn('4. The default policy')).toMatchObject([
      { identity: anonymous, permissions: granted },
    ]);
  },
);

testInVm('scene 5: ClientWrite and ClientRootAccess without ClientMount do not let anybody mount', () => {
  const seen = seenIn('5. ClientWrite and ClientRootAccess');

  expect(seen).toContain('mount.nfs4: access denied by server while mounting 127.0.0.1:/\n');
  expect(seen).toMatch(/refused SESSION .* does not grant it elasticfilesystem:ClientMount/);
  expect(seen).toMatch(/^status 32$/m);
});

testInVm('scene 5: with ClientMount and ClientWrite, what root writes belongs to the anonymous user', () => {
  const seen = seenIn('5. ClientMount and ClientWrite');

  expect(seen).toContain(silentMount);
  expect(seen).toMatch(/^# touch \S+\/by-root && stat .*\n65534:65534$/m);
  expect(seen).toContain("touch: cannot touch '/mount/efs/replay/private': Permission denied\nstatus 1\n");
});

testInVm(
  'scene 6: a policy for one access point lets that one in, and neither another nor the file system itself',
  () => {
    const title = '6. A policy for one access point';
    const [through, another, without] = seenIn(title).split(/^# /m).slice(1);

    expect(through).toMatch(/^mount .*accesspoint=ACCESS-POINT-1 .*&& umount \/mount\/efs\n$/);
    expect(another).toMatch(
      /accesspoint=ACCESS-POINT-2[\s\S]*through access point ACCESS-POINT-2[\s\S]*\nstatus 32\n$/,
    );
    expect(without).toMatch(
      /^mount -t efs -o tls,iam FILE-SYSTEM[\s\S]*access denied by server[\s\S]*\nstatus 32\n/,
    );
    expect(recordedIn(title).map(({ errorCode, permissions }) => ({ errorCode, permissions }))).toEqual([
      { errorCode: 'AccessDenied', permissions: denied },
      { errorCode: 'AccessDenied', permissions: denied },
      { errorCode: undefined, permissions: granted },
    ]);
  },
);
