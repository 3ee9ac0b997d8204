import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect } from 'vitest';
import { buildBundle, removeBundle } from '../support/bundle.ts';
import { createRoot } from '../support/tls-certificates.ts';
import { testInVm } from '../support/vm.ts';
import { tlsCases } from '../tunnel/tls-cases.ts';
import { fileSystem, openSetting, type Setting } from './setting.ts';

let setting: Setting;
beforeAll(async () => {
  setting = await openSetting();
  await setting.must(`useradd --create-home mallory
    groupadd watchers && useradd --groups watchers alice
    mkdir -p /etc/amazon/efs/efs-utils.conf.d
    printf '[agent]\\nstatus_group = watchers\\nmetrics_group = watchers\\n' > /etc/amazon/efs/efs-utils.conf.d/90-watchers.conf
    mount -t efs -o tls,iam ${fileSystem} /mount/efs`);
});
afterAll(() => setting?.close());

const shell = async (command: string) => (await setting.vm.run(`exec 2>&1; ${command}`)).stdout;
const asMallory = (command: string) => shell(`runuser -u mallory -- sh -c '${command}'`);
/** What a program for Node prints as JSON when a user runs it. */
async function runNodeAs(user: string, program: string): Promise<unknown> {
  const said = await shell(`runuser -u ${user} -- node -e "$(echo ${btoa(program)} | base64 -d)"`);
  return JSON.parse(said);
}
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

/** Attempts of a program: the code of what stopped each, or `done`. */
const attempts = (lines: string) => `
const fs = require("fs"), net = require("net"), outcomes = {};
const attempt = (name, act) => { try { act(); outcomes[name] = "done"; } catch (error) { outcomes[name] = error.code; } };
const knock = (name) => new Promise((resolve) => {
  const end = (outcome) => { outcomes[name] = outcome; socket.destroy(); resolve(); };
  const socket = net.connect("/run/efs-agent/" + name, () => end("done")).on("error", (error) => end(error.code));
});
(async () => { ${lines} console.log(JSON.stringify(outcomes)); })();`;

testInVm('files, sockets and processes of the agent: what a user without rights gets of each', async () => {
  const agent = (await setting.must('cat /run/efs-agent/agent.pid')).trim();
  const worker = (await setting.must('pgrep -f efs-agent/worker.cjs')).trim().split('\n')[0];

  const outcomes = await runNodeAs(
    'mallory',
    attempts(`
      for (const name of ["control.sock", "workers.sock", "status.sock", "metrics.sock"]) await knock(name);
      for (const name of ["mounts", "mounts.copy"]) attempt("list " + name, () => fs.readdirSync("/run/efs-agent/" + name));
      attempt("plant a file", () => fs.writeFileSync("/run/efs-agent/planted", ""));
      attempt("plant a link", () => fs.symlinkSync("/etc/passwd", "/run/efs-agent/mounts.copy.new"));
      attempt("move the socket", () => fs.renameSync("/run/efs-agent/control.sock", "/run/efs-agent/old"));
      for (const name of ["efs-utils.conf", "efs-utils.crt", "efs-utils.conf.d/99-planted.conf"])
        attempt("write " + name, () => fs.appendFileSync("/etc/amazon/efs/" + name, "x"));
      attempt("write the program", () => fs.appendFileSync("/usr/lib/efs-agent/agent.cjs", "x"));
      for (const [who, pid] of [["agent", ${agent}], ["worker", ${worker}]]) {
        for (const file of ["environ", "mem", "fd/0"]) attempt(who + " " + file, () => fs.openSync("/proc/" + pid + "/" + file));
        attempt("signal the " + who, () => process.kill(pid, "SIGUSR1"));
      }`),
  );

  expect(Object.keys(outcomes as object)).toHaveLength(21);
  expect(outcomes).toEqual(
    Object.fromEntries(
      Object.keys(outcomes as object).map((name) => [name, expect.stringMatching(/^(?:EACCES|EPERM)$/)]),
    ),
  );
  expect(await asMallory(`/sbin/mount.efs ${fileSystem} /home/mallory`)).toContain('[permission.not-root]');
  expect(await asMallory('efs-agent status')).toContain('you are not in the group');
});

testInVm(
  'who is in the groups of the configuration sees the status and the metrics, and no more',
  async () => {
    const outcomes = await runNodeAs(
      'alice',
      attempts(
        `for (const name of ["control.sock", "workers.sock", "status.sock", "metrics.sock"]) await knock(name);`,
      ),
    );
    const status = JSON.parse(await shell('runuser -u alice -- efs-agent status --json')) as {
      mounts: { mountPoint: string }[];
    };

    expect(outcomes).toEqual({
      'control.sock': 'EACCES',
      'workers.sock': 'EACCES',
      'status.sock': 'done',
      'metrics.sock': 'done',
    });
    expect(status.mounts).toMatchObject([{ mountPoint: '/mount/efs', state: 'mounted' }]);
  },
);

testInVm('a user that answers in place of a mount target is told nothing', async () => {
  const impostor = createRoot({ names: [{ dns: '*.efs.us-east-1.amazonaws.com' }], isAuthority: false });
  const program = `
    const tls = require("tls"), said = (chunk) => console.log("told", chunk.length);
    const own = { key: \`${impostor.keyPem}\`, cert: \`${impostor.pem}\`, ciphers: "DEFAULT:@SECLEVEL=0" };
    const serve = (options, host) => tls.createServer(options, (socket) => socket.on("data", said).on("error", () => {})).listen(2049, host);
    serve(own, "127.0.0.66");
    serve({ ...own, minVersion: "TLSv1", maxVersion: "TLSv1.1" }, "127.0.0.67");
    require("net").createServer((socket) => socket.on("error", () => {}).end("220 hello\\r\\n")).listen(2049, "127.0.0.68");`;
  await setting.must('cat > /home/mallory/impostor.js', program);
  await setting.must(`mkdir -p /mount/other
    systemd-run --quiet --unit=impostor --uid=mallory $(which node) /home/mallory/impostor.js
    timeout 100 sh -c 'until [ $(ss -Hlnt "src 127.0.0.64/28 and sport = 2049" | wc -l) = 3 ]; do sleep 0.2; done'`);

  const verdicts: [address: string, code: string | undefined][] = [];
  for (const host of [66, 67, 68]) {
    const said = await shell(`mount -t efs -o tls,mounttargetip=127.0.0.${host} ${fileSystem} /mount/other`);
    verdicts.push([`127.0.0.${host}`, /\[([a-z.-]+)\]/.exec(said)?.[1]]);
  }

  expect(verdicts).toEqual([
    ['127.0.0.66', 'tls.untrusted'],
    ['127.0.0.67', 'tls.failed'],
    ['127.0.0.68', 'tls.failed'],
  ]);
  expect(await shell('systemctl is-active impostor')).toBe('active\n');
  expect(await shell('journalctl -u impostor -o cat | grep -c told')).toBe('0\n');
});

testInVm('a process without rights judges every mount target of docs/tls.md as it stands there', async () => {
  const cases = Object.values(tlsCases).flat();
  const bundle = await buildBundle('test/tunnel/judge-program.ts');
  await setting.must('cat > /tmp/judge.cjs', await readFile(bundle, 'utf8'));
  await removeBundle(bundle);

  const said = await setting.must('runuser -u mallory -- node /tmp/judge.cjs', JSON.stringify(cases));

  const verdicts = JSON.parse(said) as string[];
  expect(cases.map(({ what }, index) => [what, verdicts[index]])).toEqual(
    cases.map(({ what, verdict }) => [what, verdict]),
  );
});
