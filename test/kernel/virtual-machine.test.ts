import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect } from 'vitest';
import { openVm, testInVm, type Vm } from '../support/vm.ts';

let vm: Vm;
beforeAll(async () => {
  vm = await openVm();
});
afterAll(() => vm?.close());

const ganesha = `
NFS_CORE_PARAM { NFS_Port = 20490; Protocols = 4; Bind_addr = 127.0.0.1; Enable_UDP = false; Enable_RQUOTA = false; Enable_NLM = false; }
NFSv4 { Graceless = true; Minor_Versions = 1; }
EXPORT { Export_Id = 1; Path = /srv/export; Pseudo = /; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; FSAL { Name = VFS; } }
`;

testInVm(
  'the kernel in the virtual machine mounts an NFS 4.1 export and reads back what it wrote',
  async () => {
    await vm.run('mkdir -p /srv/export /mnt/plain && cat > /tmp/ganesha.conf', { input: ganesha });
    const server = await vm.run(
      'ganesha.nfsd -f /tmp/ganesha.conf -L /tmp/ganesha.log -p /run/ganesha-test.pid',
      { timeoutMs: 30_000 },
    );
    expect(server.code, server.stderr).toBe(0);

    const options = 'nfsvers=4.1,port=20490,noresvport';
    const mounted = await vm.run(
      `until ss -ltn | grep -q :20490; do sleep 0.2; done; mount.nfs4 127.0.0.1:/ /mnt/plain -o ${options}`,
    );
    const written = await vm.run(
      'head -c 8M /dev/urandom > /mnt/plain/file && sha256sum < /mnt/plain/file && sync',
    );
    const read = await vm.run(
      'echo 3 > /proc/sys/vm/drop_caches; umount /mnt/plain; sha256sum < /srv/export/file',
    );

    expect(mounted).toMatchObject({ code: 0, stderr: '' });
    expect(read).toEqual(written);
  },
);

testInVm('the virtual machine knows the time of its host', async () => {
  const { stdout } = await vm.run('date +%s.%N');

  expect(Math.abs(Number(stdout) * 1_000 - Date.now())).toBeLessThan(3_000);
});

testInVm(
  'files and folders keep their bytes on the way into the virtual machine and out again',
  async ({ onTestFinished }) => {
    const folder = await mkdtemp(join(tmpdir(), 'efs-agent-vm-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    await mkdir(`${folder}/sent/deep`, { recursive: true });
    const bytes = randomBytes(300_000);
    await writeFile(`${folder}/sent/deep/file`, bytes);

    await vm.copyIn(`${folder}/sent`, '/root/there');
    await vm.copyOut('/root/there', `${folder}/back`);

    expect((await readFile(`${folder}/back/deep/file`)).equals(bytes)).toBe(true);
  },
);

testInVm('a command that runs out of time is ended with its children', async () => {
  await expect(vm.run('sleep 3137 & sleep 3137', { timeoutMs: 1_000 })).rejects.toThrow('within 1000 ms');

  await expect.poll(async () => (await vm.run('pgrep -cf "sleep 3137$"')).stdout).toBe('0\n');
});
