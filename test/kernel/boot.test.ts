import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { testInVm } from '../support/vm.ts';
import { accessPoints, fileSystem, openSetting, type Setting } from './setting.ts';

/** How many times the machine is started; the long form of the check says more. */
const boots = Number(process.env['EFS_AGENT_BOOTS'] ?? 1);

/** Each line another access point, so that the kernel takes no two mounts for one server. */
const [one, two, three] = accessPoints.map(({ id }) => `tls,iam,accesspoint=${id}`);
const absent = 'fs-00000000000000000';
const lines = {
  netdev: `${fileSystem} /mount/netdev efs _netdev,tls,iam 0 0`,
  nofail: `${fileSystem}:/ /mount/nofail efs _netdev,nofail,${one} 0 0`,
  requires: `${fileSystem} /mount/requires efs _netdev,x-systemd.requires=mount-target.service,${two} 0 0`,
  automount: `${fileSystem} /mount/automount efs _netdev,noauto,x-systemd.automount,x-systemd.idle-timeout=10,${three} 0 0`,
  unreachable: `${absent} /mount/unreachable efs _netdev,nofail,tls,iam,mounttargetip=10.1.1.99 0 0`,
};
const mountedAtBoot = ['netdev', 'nofail', 'requires'];

let setting: Setting;
beforeAll(async () => {
  setting = await openSetting();
  await setting.must('mkdir -p /var/log/journal && systemctl restart systemd-journald');
  await setting.must(
    `mkdir -p ${Object.keys(lines)
      .map((name) => `/mount/${name}`)
      .join(' ')}`,
  );
  await setting.must(
    `mkdir -p ${setting.directory}/point-2 && echo there > ${setting.directory}/point-2/file`,
  );
  await setting.must('cat >> /etc/fstab', `${Object.values(lines).join('\n')}\n`);
});
afterEach((context) => setting?.explain(context));
afterAll(() => setting?.close());

const shell = async (command: string) => (await setting.vm.run(`exec 2>&1; ${command}`)).stdout;
/** Not by findmnt, which looks at the directory and so keeps it mounted. */
const automountTypes = () => shell(`awk '$2 == "/mount/automount" { print $3 }' /proc/mounts`);
const openTunnels = () => shell("ss -Hlnt 'src 127.0.0.1' | wc -l");

testInVm('findmnt --verify finds no error in fstab lines of type efs', async () => {
  const { stdout } = await setting.vm.run('findmnt --verify 2>&1');

  // It warns of every type that only a helper knows, and of a source that is no path.
  expect(stdout).toContain('0 parse errors, 0 errors,');
});

for (let boot = 1; boot <= boots; boot += 1) {
  testInVm(
    `boot ${boot} of ${boots}: what fstab names is mounted, and a mount target that is not there stops nothing`,
    async () => {
      await setting.vm.reboot();

      await expect
        .poll(() => shell('systemctl list-jobs --no-legend'), { timeout: 300_000, interval: 1_000 })
        .not.toContain('mount-');
      expect(await shell('systemctl --failed --plain --no-legend --full | cut -d" " -f1')).toBe(
        'mount-unreachable.mount\n',
      );
      expect(await shell('journalctl -b --no-pager | grep -i "ordering cycle"')).toBe('');
      expect(await shell('systemctl is-active remote-fs.target multi-user.target efs-agent')).toBe(
        'active\nactive\nactive\n',
      );
      for (const name of mountedAtBoot) {
        expect(await shell(`findmnt -n -o FSTYPE --mountpoint /mount/${name}`)).toContain('nfs4');
        expect(await shell(`echo ${boot} > /mount/${name}/by-${name} && cat /mount/${name}/by-${name}`)).toBe(
          `${boot}\n`,
        );
      }
      expect(await openTunnels()).toBe('3\n');
      expect(await shell('journalctl -b -u mount-unreachable.mount --no-pager -o cat')).toContain(
        '10.1.1.99',
      );
    },
  );

  testInVm(
    `boot ${boot} of ${boots}: an automount mounts on first access, and after idling it and its tunnel are gone`,
    async () => {
      expect(await automountTypes()).toBe('autofs\n');

      expect(await shell('cat /mount/automount/file')).toBe('there\n');

      expect(await openTunnels()).toBe('4\n');
      await expect
        .poll(() => automountTypes(), {
          timeout: 180_000,
          interval: 1_000,
        })
        .toBe('autofs\n');
      await expect.poll(openTunnels, { timeout: 60_000 }).toBe('3\n');
      expect(await shell('systemctl is-failed mount-automount.mount')).not.toBe('failed\n');
      expect(await shell('cat /mount/automount/file')).toBe('there\n');
    },
  );
}

testInVm(
  'a machine with a program that writes on a mount goes down within a minute, and comes up again',
  async () => {
    await setting.must(
      `systemd-run --quiet --unit=writer bash -c 'exec 9>> /mount/netdev/held; while echo line >&9; do sleep 0.05; done'`,
    );
    const before = (await shell('tr -d - < /proc/sys/kernel/random/boot_id')).trim();
    const askedAt = Number(await shell('date +%s'));

    await setting.vm.reboot();

    const downSeconds = Number(await shell("sed -n 's/^btime //p' /proc/stat")) - askedAt;
    console.log(`from reboot to the next kernel: ${downSeconds} s`);
    const last = await shell(`journalctl -b ${before} --no-pager -o short-monotonic | tail -n 40`);
    expect(downSeconds, last).toBeLessThan(60);
    await expect
      .poll(() => shell('tail -n 1 /mount/netdev/held'), { timeout: 180_000, interval: 1_000 })
      .toBe('line\n');
  },
);
