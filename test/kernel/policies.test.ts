import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { testInVm } from '../support/vm.ts';
import { accessPoints, fileSystem, openSetting, policyFor, roleArn, type Setting } from './setting.ts';

const [first, second] = [accessPoints[0]!, accessPoints[1]!];

let setting: Setting;
beforeAll(async () => {
  setting = await openSetting();
  await setting.must('mkdir -p /mount/other');
});
afterEach(async () => {
  await setting?.vm.run('umount -f -l /mount/efs; umount -f -l /mount/other; rm -rf /root/left');
  await setting?.setPolicy(policyFor(roleArn));
});
// Registered last, it runs first.
afterEach((context) => setting?.explain(context));
afterAll(() => setting?.close());

const mount = (options: string, mountPoint = '/mount/efs') =>
  setting.vm.run(`mount -t efs -o ${options} ${fileSystem} ${mountPoint}`, { timeoutMs: 120_000 });
const shell = async (command: string) => (await setting.vm.run(`exec 2>&1; ${command}`)).stdout;
const succeeded = { code: 0, stdout: '', stderr: '' };

testInVm(
  'scene 5: with ClientMount alone files can be read, nobody can write, and root is nobody',
  async () => {
    const private600 = `${setting.directory}/private`;
    await setting.must(
      `echo open > ${setting.directory}/open; echo private > ${private600}; chmod 600 ${private600}`,
    );
    await setting.setPolicy(policyFor(roleArn, ['ClientMount']));

    const mounted = await mount('tls,iam');

    expect(mounted).toEqual(succeeded);
    expect(await shell('cat /mount/efs/open')).toBe('open\n');
    expect(await shell('cat /mount/efs/private')).toContain('Permission denied');
    expect(await shell('echo x > /mount/efs/new')).toMatch(/Read-only file system|Permission denied/);
    expect(await shell('rm -f /mount/efs/open')).toMatch(/Read-only file system|Permission denied/);
    expect(await shell(`ls ${setting.directory}`)).not.toContain('new');
  },
);

testInVm(
  "scene 6: through an access point the root is its directory and the user its user, whatever the caller's uid",
  async () => {
    await setting.must(`echo above > ${setting.directory}/above`);

    const mounted = await mount(`tls,iam,accesspoint=${first.id}`);

    expect(mounted).toEqual(succeeded);
    const inside = `${setting.directory}${first.path}`;
    expect(await shell('cat /mount/efs/above')).toContain('No such file or directory');
    expect(await shell(`stat -c %u:%g:%a ${inside}`)).toBe(`${first.uid}:${first.uid}:750\n`);
    const writeAs = (user: string, name: string) =>
      shell(`setpriv --reuid=${user} --regid=${user} --clear-groups touch /mount/efs/${name}`);
    expect(await writeAs('0', 'by-root')).toBe('');
    expect(await writeAs('4321', 'by-another')).toBe('');
    expect(await shell(`cd ${inside} && stat -c %u:%g:%n by-*`)).toBe(
      `${first.uid}:${first.uid}:by-another\n${first.uid}:${first.uid}:by-root\n`,
    );
  },
);

testInVm(
  'scene 6: two access points of one file system mounted at once never show each other’s data',
  async () => {
    await setting.must(
      `for n in 0 1; do mkdir -p ${setting.directory}/point-$n; echo $n > ${setting.directory}/point-$n/same-name; done`,
    );

    const both = [
      await mount(`tls,iam,accesspoint=${first.id}`),
      await mount(`tls,iam,accesspoint=${second.id}`, '/mount/other'),
    ];

    expect(both).toEqual([succeeded, succeeded]);
    for (let round = 0; round < 3; round += 1) {
      expect(await shell('cat /mount/efs/same-name /mount/other/same-name')).toBe('0\n1\n');
      await setting.must(
        `echo ${round} > /mount/efs/only-first-${round}; echo 3 > /proc/sys/vm/drop_caches; ! ls /mount/other | grep only-first`,
      );
    }
    expect(await shell('umount /mount/efs; cat /mount/other/same-name')).toBe('1\n');
  },
);
