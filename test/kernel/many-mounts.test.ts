import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { testInVm } from '../support/vm.ts';
import { accessPoints, fileSystem, openSetting, type Setting } from './setting.ts';

let setting: Setting;
beforeAll(async () => {
  setting = await openSetting();
});
afterEach((context) => setting?.explain(context));
afterAll(() => setting?.close());

/** Three mounts of each access point. */
const mounts = accessPoints.flatMap((point) =>
  ['a', 'b', 'c'].map((copy) => ({ ...point, mountPoint: `/mount${point.path}-${copy}` })),
);
const shell = async (command: string) => (await setting.vm.run(`exec 2>&1; ${command}`)).stdout;
const showMarkers = (shown: typeof mounts) =>
  shell(`for m in ${shown.map(({ mountPoint }) => mountPoint).join(' ')}; do echo $m $(cat $m/marker); done`);
const expectedMarkers = (shown: typeof mounts) =>
  shown.map(({ mountPoint, path }) => `${mountPoint} ${path}\n`).join('');

testInVm(
  'thirty mounts of ten access points: each shows its own data, and the role’s credentials are asked for once',
  async () => {
    for (const { path } of accessPoints)
      await setting.must(
        `mkdir -p ${setting.directory}${path} && echo ${path} > ${setting.directory}${path}/marker`,
      );
    await setting.must(`mkdir -p ${mounts.map(({ mountPoint }) => mountPoint).join(' ')}`);
    await setting.must(
      'systemd-run --quiet --unit=capture --collect tcpdump -q -i efs0 -s 0 -U -w /tmp/metadata.pcap host 169.254.169.254 && timeout 120 sh -c "until [ -s /tmp/metadata.pcap ]; do sleep 0.2; done"',
    );
    const lines = mounts.map(({ id, mountPoint }) => `accesspoint=${id} ${fileSystem} ${mountPoint}\n`);
    const startMs = performance.now();

    const said = await setting.vm.run("xargs -P 30 -L 1 sh -c 'mount -t efs -o tls,iam,$0 $1 $2'", {
      input: lines.join(''),
      timeoutMs: 400_000,
    });

    console.log(`30 mounts: ${((performance.now() - startMs) / 1_000).toFixed(1)} s in emulation`);
    expect(said).toMatchObject({ code: 0, stdout: '' });
    // An emulated processor may be too slow for the kernel's fifteen seconds; nothing else may have to be tried again.
    expect(said.stderr).toMatch(/^(Mount attempt \d\/3 failed due to no answer within 15 s, wait .*\n)*$/);
    expect(await shell('grep -c " nfs4 " /proc/mounts')).toBe('30\n');
    expect(await showMarkers(mounts)).toBe(expectedMarkers(mounts));
    await setting.must('systemctl stop capture');
    const asked = 'GET /latest/meta-data/iam/security-credentials/efs-client';
    expect(await shell(`grep -a -o "${asked}" /tmp/metadata.pcap | wc -l`)).toBe('1\n');
  },
);

testInVm('when some of the thirty are unmounted, the others go on with their own data', async () => {
  const [gone, staying] = [
    mounts.filter(({ mountPoint }) => mountPoint.endsWith('a')),
    mounts.filter(({ mountPoint }) => !mountPoint.endsWith('a')),
  ];

  await setting.must(gone.map(({ mountPoint }) => `umount ${mountPoint}`).join(' && '));
  await setting.must('sleep 5; echo 3 > /proc/sys/vm/drop_caches');

  expect(await showMarkers(staying)).toBe(expectedMarkers(staying));
  await setting.must(staying.map(({ mountPoint }) => `umount ${mountPoint}`).join(' && '));
  await setting.expectNothingLeft();
});

testInVm(
  'with netns= a mount is made in that network namespace, by an agent of its own; it and one of ours do not disturb each other',
  async () => {
    const inside = 'ip netns exec service';
    const read = (mountPoint: string) =>
      shell(`echo 3 > /proc/sys/vm/drop_caches; timeout 180 cat ${mountPoint}/there`);
    await setting.must(`mkdir -p /mount/ours /mount/inside && echo yes > ${setting.directory}/there`);
    await setting.must(`mount -t efs -o tls,iam ${fileSystem} /mount/ours`);

    await setting.must(
      `mount -t efs -o tls,iam,mounttargetip=10.1.1.6,netns=/run/netns/service ${fileSystem} /mount/inside`,
    );

    const status = JSON.parse(await shell('efs-agent status --json'));
    expect(status.mounts).toMatchObject([{ mountPoint: '/mount/ours', state: 'mounted' }]);
    const [other] = status.otherNetworkNamespaces;
    expect(other.mounts).toMatchObject([{ mountPoint: '/mount/inside', state: 'mounted' }]);
    const listeners = `ss -Hlnt 'src 127.0.0.1:${other.mounts[0].port}' | wc -l`;
    expect(await shell(`${inside} ${listeners}; ${listeners}`)).toBe('1\n0\n');
    expect([await read('/mount/ours'), await read('/mount/inside')]).toEqual(['yes\n', 'yes\n']);
    await setting.must('umount /mount/ours');
    expect(await read('/mount/inside')).toBe('yes\n');
    await setting.must('umount /mount/inside');
    await expect
      .poll(() => shell(`${inside} ${listeners}`), { timeout: 120_000, interval: 1_000 })
      .toBe('0\n');
    await setting.expectNothingLeft();
  },
);
