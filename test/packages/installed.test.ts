import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { afterAll, beforeAll, expect } from 'vitest';
import { fileSystem, openSetting, type Setting } from '../kernel/setting.ts';
import { buildPackages, buildPackagesOf } from '../support/packages.ts';
import { testInVm } from '../support/vm.ts';

const newerVersion = '99.0.0';
let setting: Setting;
let folder: string;
let listingBefore: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'efs-packages-'));
  const kinds = [`deb-${process.arch}`, 'rpm-system-node'];
  const first = buildPackages(folder, kinds);
  const second = buildPackagesOf(newerVersion, folder, kinds);
  setting = await openSetting(async (vm) => {
    for (const [name, paths] of Object.entries({ first, second }))
      for (const path of paths) await vm.copyIn(path, `/root/${name}${extname(path)}`);
    listingBefore = (await vm.run(list)).stdout;
    // As `apt-get install ./efs-agent.deb` would: nothing that is missing is forced.
    return 'dpkg -i /root/first.deb';
  });
  await setting.must('cat > /root/writer && chmod +x /root/writer', writer);
});
afterAll(async () => {
  rmSync(folder, { recursive: true, force: true });
  await setting?.close();
});

const shell = async (command: string) => (await setting.vm.run(`exec 2>&1; ${command}`)).stdout;
const mount = () => setting.must(`mount -t efs -o tls,iam ${fileSystem} /mount/efs`);

/** Every path of the machine, but for what the setting itself makes and what dpkg and rpm keep for themselves. */
const list = `find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /root -o -path /mount \\
  -o -path /var/lib/target -o -path /var/lib/dpkg -o -path /var/lib/rpm -o -path /var/log -o -path /var/cache -o -path /var/lib/systemd/timers \\
  -o -name 'mount-target.service' -o -name 'service-network.service' \\) -prune -o -print | sort`;

/** Copies of the user database before its last change: written whenever any user is added. */
const userBackups = ['/etc/passwd-', '/etc/shadow-', '/etc/group-', '/etc/gshadow-', '/etc/.pwd.lock'];

/** Upgrades while a program writes: the same mount, the agent of the newer version, no byte lost. */
async function expectUpgradeUnderIo(upgrade: string): Promise<void> {
  await mount();
  const mountLine = await shell('grep " /mount/efs " /proc/self/mountinfo');
  const agent = () => shell('systemctl show -p MainPID --value efs-agent');
  const agentBefore = await agent();
  await setting.must(
    'systemd-run --quiet --unit=writer --collect /root/writer && timeout 60 sh -c "until [ -s /tmp/sums ]; do sleep 0.1; done"',
  );

  await setting.must(upgrade);

  await expect.poll(agent, { timeout: 60_000, interval: 500 }).not.toBe(agentBefore);
  await setting.must(
    'sleep 2; touch /tmp/stop; timeout 60 sh -c "while systemctl is-active -q writer; do sleep 0.2; done"',
  );
  expect(await shell(`cd ${setting.directory} && sha256sum --quiet -c /tmp/sums`)).toBe('');
  expect(await shell('grep " /mount/efs " /proc/self/mountinfo')).toBe(mountLine);
  expect(await shell('systemctl is-active efs-agent')).toBe('active\n');
  expect(await shell('efs-agent --version')).toBe(`${newerVersion}\n`);
  // What the agent says of itself, not the program that asks it.
  expect(JSON.parse(await shell('efs-agent status --json'))).toMatchObject({
    agent: 'running',
    version: newerVersion,
    mounts: [{ state: 'mounted', mountPoint: '/mount/efs' }],
  });
  await setting.must('umount /mount/efs');
}

/** A removal while something is mounted: refused with the reason, the package stays, and so does the mount. */
async function expectRemovalRefused(remove: string, expectInstalled: () => Promise<void>): Promise<void> {
  await mount();

  const { code, stderr } = await setting.vm.run(remove);

  expect(code).not.toBe(0);
  expect(stderr).toContain('efs-agent: file systems are mounted through it');
  await expectInstalled();
  expect(await shell('echo still > /mount/efs/words; cat /mount/efs/words')).toBe('still\n');
  await setting.must('umount /mount/efs');
}

/** Writes one synced file after the other until /tmp/stop appears, and keeps their checksums. */
const writer = `#!/bin/bash
rm -f /tmp/stop /tmp/sums
for ((i = 0; ; i++)); do
  head -c 100000 /dev/urandom > /tmp/data
  dd if=/tmp/data of=/mount/efs/file-$i bs=64k conv=fsync status=none || { echo failed >> /tmp/sums; exit 1; }
  echo "$(sha256sum < /tmp/data | cut -d' ' -f1)  file-$i" >> /tmp/sums
  [ ! -e /tmp/stop ] || exit 0
  sleep 0.05
done
`;

testInVm('the package alone mounts: its own Node, its units, its user', async () => {
  expect(await shell('dpkg -s efs-agent | grep ^Status')).toBe('Status: install ok installed\n');
  // The machine's dpkg leaves man pages and documents out.
  expect(await shell('dpkg -V efs-agent | grep -v " /usr/share/"')).toBe(
    '??5?????? c /etc/amazon/efs/efs-utils.crt\n',
  );
  expect(await shell('systemctl is-enabled efs-agent.socket; systemctl is-active efs-agent.socket')).toBe(
    'enabled\nactive\n',
  );

  await mount();

  expect(await shell('echo packaged > /mount/efs/words; cat /mount/efs/words')).toBe('packaged\n');
  expect(await shell('readlink /proc/$(systemctl show -p MainPID --value efs-agent)/exe')).toBe(
    '/usr/lib/efs-agent/bin/node\n',
  );
  expect(await shell('pgrep -c -u efs-agent -f worker.cjs')).toBe('1\n');
  await setting.must('umount /mount/efs');
});

testInVm(
  'an upgrade to a newer version under a program that writes: its agent, the same mount, no byte lost',
  async () => {
    await setting.must('echo "# mine" >> /etc/amazon/efs/efs-utils.conf');

    await expectUpgradeUnderIo('DEBIAN_FRONTEND=noninteractive dpkg -i /root/second.deb </dev/null');

    expect(await shell('dpkg-query -W efs-agent')).toBe(`efs-agent\t${newerVersion}-1\n`);
    expect(await shell('tail -n 1 /etc/amazon/efs/efs-utils.conf')).toBe('# mine\n');
  },
);

testInVm('a removal is refused while something is mounted, and says why; the mount goes on', async () => {
  await expectRemovalRefused('dpkg --remove efs-agent', async () => {
    expect(await shell('dpkg -s efs-agent | grep ^Status')).toMatch(/ ok installed$/m);
  });
});

testInVm(
  'removal keeps the configuration, purge nothing: the machine has the files it had before',
  async () => {
    await setting.must('dpkg --remove efs-agent');
    expect(await shell('ls /etc/amazon/efs /usr/lib/efs-agent /run/efs-agent')).toContain('efs-utils.conf');
    expect(await shell('systemctl is-active efs-agent.socket efs-agent.service')).toBe(
      'inactive\ninactive\n',
    );

    await setting.must('dpkg --purge efs-agent');

    expect(await listNew()).toEqual([]);
    expect(await shell('getent passwd efs-agent')).toBe('');
  },
);

testInVm(
  'the .rpm, with its scripts: installed, upgraded under a program that writes, not removed while mounted, and then without a trace',
  async () => {
    // Its database is Debian's here, which knows of no other package: nothing that it needs is looked for.
    await setting.must('rpm --nodeps -i /root/first.rpm');
    expect(await shell('systemctl is-enabled efs-agent.socket; systemctl is-active efs-agent.socket')).toBe(
      'enabled\nactive\n',
    );
    await setting.must(`cp ${setting.directory}/../../ca.pem /etc/amazon/efs/efs-utils.crt
      echo "# mine" >> /etc/amazon/efs/efs-utils.conf`);
    await expectUpgradeUnderIo('rpm --nodeps -U /root/second.rpm');
    expect(await shell('rpm -q efs-agent')).toBe(`efs-agent-${newerVersion}-1.noarch\n`);
    expect(await shell('tail -n 1 /etc/amazon/efs/efs-utils.conf')).toBe('# mine\n');
    await expectRemovalRefused('rpm -e efs-agent', async () => {
      expect(await shell('rpm -q efs-agent')).toBe(`efs-agent-${newerVersion}-1.noarch\n`);
    });
    await setting.must('rpm -e efs-agent');

    // The folders of man pages belong to the first package of every RPM distribution.
    expect((await listNew()).filter((path) => !/^\/usr\/share\/man\/man\d$/.test(path))).toEqual([
      '/etc/amazon',
      '/etc/amazon/efs',
      '/etc/amazon/efs/efs-utils.conf.rpmsave',
      '/etc/amazon/efs/efs-utils.crt.rpmsave',
    ]);
    expect(await shell('getent passwd efs-agent')).toBe('');
  },
);

/** What the machine has that it had not before the first package. */
async function listNew(): Promise<string[]> {
  const before = new Set(listingBefore.split('\n'));
  const after = (await shell(list)).split('\n');
  expect(after.length).toBeGreaterThanOrEqual(before.size);
  return after.filter((path) => !before.has(path) && !userBackups.includes(path));
}
