import { afterAll, beforeAll, expect } from 'vitest';
import { testInVm } from '../support/vm.ts';
import { fileSystem, openSetting, type Setting } from './setting.ts';

let setting: Setting;
beforeAll(async () => {
  setting = await openSetting();
  await setting.must(`useradd --create-home mallory && mount -t efs -o tls,iam ${fileSystem} /mount/efs`);
});
afterAll(() => setting?.close());

const shell = async (command: string) => (await setting.vm.run(`exec 2>&1; ${command}`)).stdout;
const asMallory = (command: string) => shell(`runuser -u mallory -- sh -c '${command}'`);
/** A program for Node that connects to the tunnel and says what becomes of that. */
const connectTo = (host: string, port: string, leaves: boolean) =>
  `const s = require("net").connect(${port}, "${host}", () => s.write("\\x80\\0\\0\\x28" + "x".repeat(40), () => { ${leaves ? 'process.exit()' : ''} }));
s.on("error", (error) => { console.log(error.code); process.exit(); }); s.on("data", () => console.log("answered"));`;

testInVm('a user without rights gets nothing through the tunnel that the kernel is using', async () => {
  const port = /port=(\d+)/.exec(await shell('grep nfs4 /proc/mounts'))![1]!;
  await setting.takeEvents();

  const said: string[] = [];
  for (const host of ['127.0.0.1', '::ffff:127.0.0.1'])
    for (const leaves of [false, true])
      said.push(await asMallory(`node -e "$(echo ${btoa(connectTo(host, port, leaves))} | base64 -d)"`));
  const written = await shell('echo still-there > /mount/efs/file && cat /mount/efs/file');

  expect(said.map((text) => text.trim())).toEqual(['ECONNRESET', '', 'ECONNRESET', '']);
  expect(written).toBe('still-there\n');
  expect(await setting.takeEvents()).toEqual([]);
  expect(await shell('journalctl -u efs-agent -o cat | grep connection.refused')).toMatch(
    /connection\.refused .*reason="this user may not use tunnels"/,
  );
});

testInVm(
  'the kernel comes back to the tunnel after its worker was killed: it is not taken for a user',
  async () => {
    await shell('pkill -KILL -f efs-agent/worker.cjs');

    expect(
      await shell('echo again > /mount/efs/file && echo 3 > /proc/sys/vm/drop_caches && cat /mount/efs/file'),
    ).toBe('again\n');
  },
);
