import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { testInVm } from '../support/vm.ts';
import { fileSystem, openSetting, type Setting } from './setting.ts';

let setting: Setting;
beforeAll(async () => {
  setting = await openSetting();
  await setting.must(
    `mkdir -p /mount/bind /mount/second; echo there > ${setting.directory}/file; mkfifo /tmp/go`,
  );
});
afterEach(() =>
  setting?.vm.run(
    'systemctl stop holder; umount -f -l /mount/bind; umount -f -l /mount/second; umount -f -l /mount/efs; umount -f -l /mount/efs',
  ),
);
// Registered last, it runs first.
afterEach((context) => setting?.explain(context));
afterAll(() => setting?.close());

const shell = async (command: string) => (await setting.vm.run(`exec 2>&1; ${command}`)).stdout;
const mount = () => setting.must(`mount -t efs -o tls,iam ${fileSystem} /mount/efs`);
/** Runs a command aside that waits for `release` in between. */
const hold = (command: string) =>
  setting.must(
    `systemd-run --quiet --unit=holder --collect bash -c '${command}' && timeout 180 sh -c 'until [ -e /tmp/holds ]; do sleep 0.1; done' && rm /tmp/holds`,
  );
const release = () => setting.must('timeout 60 sh -c "echo > /tmp/go"');

/** The tunnel is there, and stays for longer than the agent takes to look for mounts that are gone. */
async function expectTunnelStays(): Promise<void> {
  const looks = `for look in 1 2 3; do
    ss -Hlnt 'src 127.0.0.1' | wc -l; ls /run/efs-agent/mounts | wc -l; sleep 2
  done; efs-agent status --json | grep -c mountId`;
  expect(await shell(looks)).toBe('1\n'.repeat(7));
}

testInVm('umount, a second umount and efs-agent umount leave nothing of the mount', async () => {
  await mount();

  expect(await setting.vm.run('umount /mount/efs')).toEqual({ code: 0, stdout: '', stderr: '' });
  await setting.expectNothingLeft();
  expect(await shell('umount /mount/efs')).toContain('not mounted');
  await mount();
  expect(await setting.vm.run('efs-agent umount /mount/efs')).toEqual({ code: 0, stdout: '', stderr: '' });
  await setting.expectNothingLeft();
});

testInVm('umount of a busy mount fails as ever, and the tunnel stays', async () => {
  await mount();
  await hold('cd /mount/efs; touch /tmp/holds; read _ < /tmp/go');

  const unmounted = await setting.vm.run('umount /mount/efs');

  expect(unmounted.stderr).toContain('busy');
  // The status of umount.nfs4, which umount calls for type nfs4.
  expect(unmounted.code).toBe(16);
  await expectTunnelStays();
  await release();
  await setting.must('timeout 180 sh -c "until umount /mount/efs; do sleep 0.5; done"');
  await setting.expectNothingLeft();
});

testInVm(
  'after umount -l an open file is still written through the tunnel, which goes with the file',
  async () => {
    await mount();
    await hold(
      'exec 9> /mount/efs/held; echo before >&9; touch /tmp/holds; read _ < /tmp/go; echo after >&9; sync /dev/fd/9',
    );

    expect(await setting.vm.run('umount -l /mount/efs')).toEqual({ code: 0, stdout: '', stderr: '' });

    expect(await shell('grep -c " nfs4 " /proc/mounts')).toBe('0\n');
    await setting.must('sleep 5');
    expect(await shell("ss -Hlnt 'src 127.0.0.1' | wc -l")).toBe('1\n');
    expect(await shell('efs-agent status')).toContain('detached');
    await release();
    await expect
      .poll(() => shell(`cat ${setting.directory}/held`), { timeout: 120_000, interval: 500 })
      .toBe('before\nafter\n');
    await setting.expectNothingLeft();
  },
);

testInVm('a bind mount outlives the mount it was made from, and the tunnel stays as long', async () => {
  await mount();
  await setting.must('mount --bind /mount/efs /mount/bind');

  await setting.must('umount /mount/efs');

  await expectTunnelStays();
  expect(await shell('echo 3 > /proc/sys/vm/drop_caches; cat /mount/bind/file')).toBe('there\n');
  await setting.must('umount /mount/bind');
  await setting.expectNothingLeft();
});

testInVm(
  'a mount under another file system keeps its tunnel, and is there again when that is unmounted',
  async () => {
    await mount();
    await setting.must('mount -t tmpfs over /mount/efs');

    await expectTunnelStays();

    expect(await shell('cat /mount/efs/file')).toContain('No such file');
    await setting.must('umount /mount/efs');
    expect(await shell('cat /mount/efs/file')).toBe('there\n');
    await setting.must('umount /mount/efs');
    await setting.expectNothingLeft();
  },
);

testInVm('a mount made in another mount namespace has its tunnel until that namespace ends', async () => {
  await hold(
    `unshare -m --propagation private bash -c "mount -t efs -o tls,iam ${fileSystem} /mount/efs && touch /tmp/holds; read _ < /tmp/go; cat /mount/efs/file > /tmp/read"`,
  );

  expect(await shell('grep -c " nfs4 " /proc/mounts')).toBe('0\n');
  await expectTunnelStays();
  await release();
  await expect.poll(() => shell('cat /tmp/read'), { timeout: 120_000 }).toBe('there\n');
  await setting.expectNothingLeft();
});

testInVm(
  'a copy of a mount in another mount namespace keeps the tunnel after umount in the first one',
  async () => {
    await mount();
    await hold(
      'unshare -m --propagation private bash -c "touch /tmp/holds; read _ < /tmp/go; cat /mount/efs/file > /tmp/read2"',
    );

    await setting.must('umount /mount/efs');

    await expectTunnelStays();
    await release();
    await expect.poll(() => shell('cat /tmp/read2'), { timeout: 120_000 }).toBe('there\n');
    await setting.expectNothingLeft();
  },
);

testInVm(
  'the kernel has one connection for two mounts of a file system: the second one outlives umount of the first',
  async () => {
    const breakConnection = 'systemctl restart mount-target';
    const restartAgent = `kill -9 $(systemctl show -p MainPID --value efs-agent)
      timeout 180 sh -c 'until systemctl is-active -q efs-agent; do sleep 0.5; done'`;
    const read = () => shell('echo 3 > /proc/sys/vm/drop_caches; timeout 180 cat /mount/second/file');
    await mount();
    await setting.must(`mount -t efs -o tls,iam,ro ${fileSystem} /mount/second`);

    await setting.must('umount /mount/efs');

    const status = await shell('efs-agent status --json');
    expect(status).toContain('"mounts"');
    expect(JSON.parse(status).mounts).toMatchObject([
      { mountPoint: '/mount/efs', state: 'detached' },
      { mountPoint: '/mount/second', state: 'mounted' },
    ]);
    expect(await read()).toBe('there\n');
    await setting.must(breakConnection);
    expect(await read()).toBe('there\n');
    await setting.must(restartAgent);
    await setting.must(breakConnection);
    expect(await read()).toBe('there\n');
    await setting.must('umount /mount/second');
    await setting.expectNothingLeft();
  },
);
