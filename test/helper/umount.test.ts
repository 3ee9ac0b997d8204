import { afterEach, beforeEach, expect, test } from 'vitest';
import { runUmountHelper } from '../../src/helper/program.ts';
import { type HelperStage, mountScript, openHelperStage, statusOf, type TestCaller } from './stage.ts';

let stage: HelperStage;
let caller: TestCaller;
beforeEach(() => {
  stage = openHelperStage();
  caller = stage.caller({ program: 'umount.efs' });
  stage.write(
    'mountinfo',
    `25 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n36 25 0:55 / ${stage.mountPoint} rw shared:1 - nfs4 127.0.0.1:/ rw,port=20049,addr=127.0.0.1\n`,
  );
});
afterEach(() => stage.close());

test('umount.efs unmounts without a helper and without looking, then has the tunnel closed', async () => {
  const conversations = await stage.listen(mountScript());

  const status = await runUmountHelper([stage.mountPoint], caller);

  expect({ status, out: caller.out, error: caller.error }).toEqual({ status: 0, out: '', error: '' });
  expect(stage.calls('umount')).toEqual([`-i -c -- ${stage.mountPoint}`]);
  expect(conversations[0]!.messages).toEqual([
    { kind: 'unmounted', version: 1, mountPoint: stage.mountPoint },
  ]);
});

test('the flags of umount are passed on', async () => {
  await runUmountHelper(['mnt', '-flrv'], caller);

  expect(stage.calls('umount')).toEqual([`-i -c -f -l -r -v -- ${stage.mountPoint}`]);
});

test('without an agent the file system is unmounted all the same', async () => {
  const status = await runUmountHelper([stage.mountPoint], caller);

  expect({ status, error: caller.error }).toEqual({ status: 0, error: '' });
});

test('a busy file system keeps its tunnel, and the words of umount are shown', async () => {
  const conversations = await stage.listen(mountScript());
  stage.write('umount-fails', `umount: ${stage.mountPoint}: target is busy.\n`);

  const status = await runUmountHelper([stage.mountPoint], caller);

  expect(status).toBe(32);
  expect(caller.error).toMatch(
    /^umount\.efs: umount: .*: target is busy\. \[umount\.failed\]\n {2}Close the files/,
  );
  expect(conversations).toEqual([]);
});

test.each(['/', '.', 'no-such-directory'])(
  'what is not an EFS mount is left alone: %s',
  async (directory) => {
    const status = await runUmountHelper([directory], caller);

    expect(status).toBe(32);
    expect(caller.error).toContain('[mountpoint.not-mounted]');
    expect(stage.calls('umount')).toEqual([]);
  },
);

test('a mount the kernel has lost already has its tunnel closed', async () => {
  stage.write('mountinfo', '25 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n');
  const conversations = await stage.listen(mountScript());

  const status = await runUmountHelper([stage.mountPoint], caller);

  expect({ status, error: caller.error }).toEqual({ status: 0, error: '' });
  expect(stage.calls('umount')).toEqual([]);
  expect(conversations[0]!.messages).toMatchObject([{ kind: 'unmounted', mountPoint: stage.mountPoint }]);
});

test('what neither the kernel nor the agent knows is not mounted', async () => {
  stage.write('mountinfo', '25 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n');
  await stage.listen(mountScript({ found: false }));

  expect(await runUmountHelper([stage.mountPoint], caller)).toBe(32);
  expect(caller.error).toContain('[mountpoint.not-mounted]');
});

test.each([
  [true, 0],
  [false, 32],
])(
  'an NFS mount without a tunnel is unmounted if the agent has it recorded: %s',
  async (recorded, expected) => {
    stage.write(
      'mountinfo',
      `36 25 0:55 / ${stage.mountPoint} rw shared:1 - nfs4 10.1.1.6:/ rw,addr=10.1.1.6\n`,
    );
    const script = mountScript({ found: recorded });
    await stage.listen((message, reply, socket) => {
      if (message.kind !== 'status') return script(message, reply, socket);
      const changes = { tls: false, port: null };
      reply({ kind: 'status', status: statusOf(recorded ? stage.mountPoint : '/elsewhere', changes) });
    });

    expect(await runUmountHelper([stage.mountPoint], caller)).toBe(expected);
    expect(stage.calls('umount')).toHaveLength(recorded ? 1 : 0);
  },
);

test('an agent that does not answer is a warning: the file system is unmounted', async () => {
  await stage.listen(() => {});
  caller.limits.closeMs = 100;

  const status = await runUmountHelper([stage.mountPoint], caller);

  expect(status).toBe(0);
  expect(caller.error).toContain(
    'is unmounted; its tunnel may still be open: the agent said nothing for 0.1 s',
  );
});
