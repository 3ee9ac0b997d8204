import { afterAll, afterEach, beforeAll, expect } from 'vitest';
import { events } from '../../src/core/events.ts';
import { testInVm } from '../support/vm.ts';
import { dnsName, fileSystem, openSetting, policyFor, roleArn, type Setting } from './setting.ts';

let setting: Setting;
beforeAll(async () => {
  setting = await openSetting();
  await setting.must('cat > /root/writer && chmod +x /root/writer', writer);
});
afterEach(() => setting?.vm.run('systemctl stop writer; umount -f -l /mount/efs'));
// Registered last, it runs first.
afterEach((context) => setting?.explain(context));
afterAll(() => setting?.close());

const shell = async (command: string) => (await setting.vm.run(`exec 2>&1; ${command}`)).stdout;
const mount = (options = 'tls,iam') =>
  setting.must(`mount -t efs -o ${options} ${fileSystem} /mount/efs 2>&1`);

/** Writes one synced file after the other until /tmp/stop appears; a checksum, or "failed", and the milliseconds for each. */
const writer = `#!/bin/bash
rm -f /tmp/stop /tmp/sums /tmp/times
for ((i = 0; ; i++)); do
  head -c 100000 /dev/urandom > /tmp/data
  s=$(date +%s%3N)
  dd if=/tmp/data of=/mount/efs/file-$i bs=64k conv=fsync status=none || { echo failed >> /tmp/sums; exit 1; }
  echo $(($(date +%s%3N) - s)) >> /tmp/times
  echo "$(sha256sum < /tmp/data | cut -d' ' -f1)  file-$i" >> /tmp/sums
  [ ! -e /tmp/stop ] || exit 0
  sleep 0.05
done
`;

/** What happens to the agent while a program writes; the kernel and the service must not notice. */
const blows = {
  'systemctl restart efs-agent': 'systemctl restart efs-agent',
  'systemctl reload efs-agent': 'systemctl reload efs-agent && sleep 3',
  'systemctl stop and start of efs-agent':
    'systemctl stop efs-agent; sleep 3; systemctl start efs-agent.socket efs-agent',
  'kill -9 of the agent': 'kill -9 $(systemctl show -p MainPID --value efs-agent); sleep 3',
};

for (const [name, blow] of Object.entries(blows)) {
  testInVm(
    `${name} under a program that writes: no error, no remount, and every byte reaches the service`,
    async () => {
      await mount();
      const mountLine = await shell('grep " /mount/efs " /proc/self/mountinfo');
      await setting.must(
        'systemd-run --quiet --unit=writer --collect /root/writer && timeout 180 sh -c "until [ -s /tmp/sums ]; do sleep 0.1; done"',
      );

      for (let round = 0; round < 2; round += 1) {
        await setting.must(`${blow}; sleep 2`);
        await expect
          .poll(() => shell('systemctl is-active efs-agent'), { timeout: 180_000, interval: 500 })
          .toBe('active\n');
      }
      await setting.must(
        'touch /tmp/stop; timeout 180 sh -c "while systemctl is-active -q writer; do sleep 0.2; done"',
      );

      const check = `cd ${setting.directory} && sha256sum --quiet -c /tmp/sums`;
      expect(await shell(check)).toBe('');
      expect(await shell('grep " /mount/efs " /proc/self/mountinfo')).toBe(mountLine);
      const longestMs = Number(await shell('sort -n /tmp/times | tail -n 1'));
      console.log(
        `${name}: the longest of ${(await shell('wc -l < /tmp/times')).trim()} writes: ${longestMs} ms`,
      );
      // It takes 60 s (timeo=600) until the kernel sends a request again by itself: none was lost.
      expect(longestMs).toBeLessThan(60_000);
      expect(await shell('efs-agent status --json | grep -c mountId')).toBe('1\n');
      expect(await setting.vm.run('umount /mount/efs')).toEqual({ code: 0, stdout: '', stderr: '' });
      await setting.expectNothingLeft();
    },
  );
}

testInVm('mount -o remount,ro makes the mount read-only, and remount,rw writable again', async () => {
  await mount();
  const port = /port=\d+/.exec(await shell('grep " /mount/efs " /proc/mounts'))?.[0];

  for (const as of ['/mount/efs', `-t efs -o tls,iam ${fileSystem} /mount/efs`]) {
    expect(await shell(`mount -o remount,ro ${as}`)).toBe('');
    expect(await shell('touch /mount/efs/refused')).toContain('Read-only file system');
    expect(await shell(`mount -o remount,rw ${as}`)).toBe('');
    expect(await shell('touch /mount/efs/accepted')).toBe('');
  }

  expect(await shell('grep -c " /mount/efs " /proc/mounts')).toBe('1\n');
  expect(await shell('grep " /mount/efs " /proc/mounts')).toContain(port);
  expect(await shell('umount /mount/efs')).toBe('');
  await setting.expectNothingLeft();
});

testInVm('the journal finds a mount by its message id, with its fields and its unit', async () => {
  await mount();
  const find = `journalctl --quiet -o json -u efs-agent MESSAGE_ID=${events['mount.done'].messageId}`;

  await expect.poll(() => shell(`${find} | tail -n 1`), { timeout: 120_000, interval: 500 }).toContain('{');

  expect(JSON.parse(await shell(`${find} | tail -n 1`))).toMatchObject({
    MESSAGE: expect.stringMatching(/^mount\.done tunnel=/),
    PRIORITY: '6',
    SYSLOG_IDENTIFIER: 'efs-agent',
    EFS_EVENT: 'mount.done',
    EFS_MOUNT_POINT: '/mount/efs',
    EFS_FILE_SYSTEM: fileSystem,
  });
  expect(await shell('journalctl --quiet -u efs-agent -o cat --grep "^session.accepted"')).toContain(
    'session=',
  );
  expect(await shell('efs-agent log-level debug --for 5m')).toContain('configured is info');
});

testInVm('a mount reads 15 MiB ahead, 15 times its rsize', async () => {
  await mount();

  await expect
    .poll(() => shell('cat /sys/class/bdi/$(stat -c %Hd:%Ld /mount/efs)/read_ahead_kb'), { timeout: 60_000 })
    .toBe('15360\n');
});

testInVm(
  'without tls the kernel talks to the mount target itself, with the options of EFS and no tunnel',
  async ({ onTestFinished }) => {
    await setting.setPolicy(null);
    onTestFinished(() => setting.setPolicy(policyFor(roleArn)));

    expect(await mount('noresvport')).toBe('');

    expect(await shell('grep " /mount/efs " /proc/mounts')).toMatch(
      new RegExp(
        `^${dnsName}:/ /mount/efs nfs4 rw,.*vers=4\\.1,rsize=1048576,wsize=1048576,.*addr=10\\.1\\.1\\.6 `,
      ),
    );
    expect(await shell("ss -Hlnt 'src 127.0.0.1'")).toBe('');
    expect(await shell('echo direct > /mount/efs/direct; cat /mount/efs/direct')).toBe('direct\n');
    // No connection of ours tells that it is gone: whoever asks is told the truth at once, and else the record goes soon.
    expect(await shell('umount /mount/efs; efs-agent status --json | grep -c mountId')).toBe('0\n');
    await setting.expectNothingLeft();
    expect(await mount('noresvport')).toBe('');
    expect(await shell('umount /mount/efs')).toBe('');
    await expect
      .poll(() => shell('ls -A /run/efs-agent/mounts'), { timeout: 120_000, interval: 500 })
      .toBe('');
  },
);
