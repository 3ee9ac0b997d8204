import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest';
import { prepareCommandLine, runCommandLine } from '../../src/cli/command-line.ts';
import { listEffectiveSettings } from '../../src/core/config.ts';
import { parseMountSpec, parseOptions } from '../../src/core/mount-spec.ts';
import { formatMountState } from '../../src/core/mount-state.ts';
import { smallHeap } from '../../src/core/small-heap.ts';
import type { EffectiveConfig } from '../../src/helper/config.ts';
import {
  fileSystemId,
  type HelperStage,
  mountScript,
  openHelperStage,
  reportOf,
  statusOf,
  type TestCaller,
} from '../helper/stage.ts';

const program = resolve(import.meta.dirname, '../../dist/efs-agent.mjs');
let stage: HelperStage;
let caller: TestCaller;
beforeEach(() => {
  stage = openHelperStage();
  caller = stage.caller({ program: 'efs-agent' });
});
afterEach(() => stage.close());

test('--help names every command, --version the version', async () => {
  expect(await runCommandLine(['--help'], caller)).toBe(0);
  for (const command of [
    'mount',
    'umount',
    'status',
    'whoami',
    'config',
    'tunnel',
    'log-level',
    'agent',
    'target',
  ])
    expect(caller.out).toContain(`efs-agent ${command}`);

  const second = stage.caller();
  expect(await runCommandLine(['--version'], second)).toBe(0);
  expect(second.out).toMatch(/^\d+\.\d+\.\d+\S*\n$/);
});

test.each([
  [[], 'give a command'],
  [['frobnicate'], 'unknown command frobnicate'],
  [['mount'], 'Not enough non-option arguments: got 0, need at least 2'],
  [['mount', fileSystemId, '/mnt', 'more'], 'Unknown argument: more'],
  [['mount', fileSystemId, '/mnt', '-o'], 'Not enough arguments following: o'],
  [['status', '--jsno'], 'Unknown argument: jsno'],
  [['log-level', 'loud'], '"loud" is not a log level: error, warn, info, debug, default'],
  [['log-level', '--for', '10m'], '--for goes with a level'],
  [
    ['log-level', 'debug', '--for', 'ever'],
    '--for must be a duration up to 30 days, such as 30s, 10m or 2h, not "ever"',
  ],
  [['target', '--region', 'a', '--region', 'b'], 'give --region only once'],
])('%j is a usage error: one line and a hint', async (argv, message) => {
  const status = await runCommandLine(argv as string[], caller);

  expect(status).toBe(1);
  const [command = ''] = argv as string[];
  const whose = command === '' || command === 'frobnicate' ? '' : `${command} `;
  expect(caller.error).toBe(`efs-agent: ${message} [usage]\n  Run efs-agent ${whose}--help.\n`);
});

test('mount joins repeated and attached options and mounts', async () => {
  const conversations = await stage.listen(mountScript());

  const status = await runCommandLine(
    ['mount', `${fileSystemId}:/app`, stage.mountPoint, '-otls', '-o', 'iam,ro'],
    caller,
  );

  expect({ status, error: caller.error }).toEqual({ status: 0, error: '' });
  expect(conversations[0]!.messages[0]).toMatchObject({
    spec: { path: '/app', iam: true, nfsOptions: [{ name: 'ro', value: null }] },
  });
  expect(await runCommandLine(['umount', stage.mountPoint], caller)).toBe(0);
});

test('status without an agent says so, for programs too, and starts none', async () => {
  expect(await runCommandLine(['status'], caller)).toBe(0);
  expect(caller.out).toBe('the agent is not running; no tunnel is open\n');

  const second = stage.caller();
  expect(await runCommandLine(['status', '--json'], second)).toBe(0);
  expect(JSON.parse(second.out)).toMatchObject({ agent: 'absent', pid: null, mounts: [] });
});

test('status --json is what the agent said, with the places where the mount is', async () => {
  stage.write(
    'mountinfo',
    [...nfsMount(20_049, '/mnt/efs', '/srv/bind'), ...nfsMount(20_050, '/mnt/b')].join('\n'),
  );
  await stage.listen((_message, reply) => reply({ kind: 'status', status: statusOf('/mnt/efs') }));

  expect(await runCommandLine(['status', '--json'], caller)).toBe(0);

  expect(JSON.parse(caller.out)).toEqual(reportOf('/mnt/efs', { mountPoints: ['/mnt/efs', '/srv/bind'] }));
});

test('a mount without tls is found in the table by where it is, its bind mounts with it', async () => {
  stage.write(
    'mountinfo',
    nfsMount(2_049, '/mnt/plain', '/srv/bind').join('\n').replaceAll('127.0.0.1', '10.1.1.6'),
  );
  const status = statusOf('/mnt/plain', { tls: false, port: null });
  await stage.listen((_message, reply) => reply({ kind: 'status', status }));

  await runCommandLine(['status', '--json'], caller);

  expect(JSON.parse(caller.out).mounts[0].mountPoints).toEqual(['/mnt/plain', '/srv/bind']);
});

test.each([
  ['is gone', false, 100],
  ['does not answer', true, 100],
  ['was stopped: it is not waited for', true, 3_600_000],
])('status shows what is recorded when the agent %s, and ends with 3', async (_what, isThere, closeMs) => {
  caller.limits.closeMs = closeMs;
  if (closeMs > 100) await writeStoppedAgent();
  stage.write('mountinfo', nfsMount(20_049, '/mnt/efs', '/srv/bind').join('\n'));
  mkdirSync(join(stage.directory, 'run/mounts'));
  stage.write('run/mounts/m1.json', recordOf('/mnt/efs', 20_049));
  stage.write('run/mounts/damaged.json', '{');
  if (isThere) await stage.listen(() => {});

  expect(await runCommandLine(['status', '--json'], caller)).toBe(3);

  const report = JSON.parse(caller.out);
  expect(report).toMatchObject({ agent: isThere ? 'silent' : 'absent', pid: null, worker: null });
  expect(report.mounts).toMatchObject([
    {
      fileSystemId,
      mountPoint: '/mnt/efs',
      mountPoints: ['/mnt/efs', '/srv/bind'],
      state: 'unwatched',
      port: 20_049,
    },
  ]);
});

/** As the record of a running agent has it: the number of a process that is one, here one that Ctrl-Z stopped. */
async function writeStoppedAgent(): Promise<void> {
  stage.write('agent.cjs', "console.log('there'); process.stdin.resume();");
  const agent = spawn(process.execPath, [join(stage.directory, 'agent.cjs')], {
    stdio: ['pipe', 'pipe', 'ignore'],
  });
  await once(agent.stdout, 'data');
  agent.kill('SIGSTOP');
  onTestFinished(() => void agent.kill('SIGKILL'));
  await expect.poll(() => readFileSync(`/proc/${agent.pid}/stat`, 'utf8')).toContain(') T ');
  stage.write('run/agent.pid', `${agent.pid}\n`);
}

test('the status of ten thousand mounts arrives whole', async () => {
  const { mounts, ...status } = statusOf('/mnt/efs');
  const many = Array.from({ length: 10_000 }, (_, at) => ({ ...mounts[0]!, mountPoint: `/mnt/${at}` }));
  await stage.listen((_message, reply) => reply({ kind: 'status', status: { ...status, mounts: many } }));

  expect(await runCommandLine(['status', '--json'], caller)).toBe(0);

  expect(JSON.parse(caller.out).mounts).toHaveLength(10_000);
});

/** The lines of the mount table for one NFS mount through a tunnel, at several places. */
function nfsMount(port: number, ...places: string[]): string[] {
  return places.map(
    (place, at) =>
      `${port + at} 25 0:${port} / ${place} rw - nfs4 127.0.0.1:/ rw,vers=4.1,port=${port},addr=127.0.0.1`,
  );
}

function recordOf(mountPoint: string, port: number): string {
  return formatMountState({
    mountId: 'm1',
    fileSystemId,
    accessPointId: null,
    path: '/',
    mountPoint,
    port,
    dnsName: `${fileSystemId}.efs.us-east-1.amazonaws.com`,
    region: 'us-east-1',
    spec: parseMountSpec(fileSystemId, parseOptions('tls,iam')),
    environment: {},
    createdAtMs: 0,
    callerSocket: null,
  });
}

test('log-level asks the agent, and says when the configured level returns', async () => {
  const conversations = await stage.listen((_message, reply) =>
    reply({
      kind: 'log-level',
      state: { level: 'debug', configured: 'info', untilMs: Date.UTC(2026, 0, 1) },
    }),
  );

  expect(await runCommandLine(['log-level', 'debug', '--for', '10m'], caller)).toBe(0);
  expect(await runCommandLine(['log-level', 'default'], caller)).toBe(0);
  expect(await runCommandLine(['log-level'], caller)).toBe(0);

  expect(caller.out).toContain('the log level is debug until 2026-01-01T00:00:00.000Z; configured is info\n');
  expect(conversations.map(({ messages }) => messages)).toMatchObject([
    [{ kind: 'log-level', change: { level: 'debug', forMs: 600_000 } }],
    [{ change: { level: null, forMs: null } }],
    [{ change: null }],
  ]);
});

test('log-level without an agent starts none, and says so', async () => {
  expect(await runCommandLine(['log-level', 'debug'], caller)).toBe(2);
  expect(caller.error).toContain('the agent is not running [agent.unreachable]');
});

test('config shows each value and where it comes from, and says on stderr what has no meaning any more', async () => {
  stage.write('efs-utils.conf', '[mount]\nregion = eu-west-1\n[mount-watchdog]\npoll_interval_sec = 7\n');
  const environment = { ...stage.environment, EFS_AGENT_CONFIG: `${stage.directory}/efs-utils.conf` };
  const one = stage.caller({ program: 'efs-agent', environment });

  expect(await runCommandLine(['config'], one)).toBe(0);

  expect(one.out).toContain(`# ${stage.directory}/efs-utils.conf:2\nregion = eu-west-1\n`);
  expect(one.out).toContain('# default\ndns_name_suffix = amazonaws.com\n');
  expect(one.out).toContain('# default\n#az_id =\n');
  expect(one.out).toContain(`:4, has no effect\npoll_interval_sec = 7\n`);
  expect(one.error).toBe(
    `efs-agent: ${stage.directory}/efs-utils.conf:4: [mount-watchdog] poll_interval_sec has no effect: the agent watches events\n`,
  );
});

test('config --json tells the same to programs, and what config prints is a configuration file', async () => {
  stage.write('efs-utils.conf', '[mount]\nregion = eu-west-1\n');
  const environment = { ...stage.environment, EFS_AGENT_CONFIG: `${stage.directory}/efs-utils.conf` };
  const json = stage.caller({ program: 'efs-agent', environment });
  const text = stage.caller({ program: 'efs-agent', environment });

  await runCommandLine(['config', '--json'], json);
  await runCommandLine(['config'], text);

  const shown = JSON.parse(json.out) as EffectiveConfig;
  expect(shown.settings).toContainEqual(
    expect.objectContaining({
      section: 'mount',
      key: 'region',
      value: 'eu-west-1',
      origin: { kind: 'file', path: `${stage.directory}/efs-utils.conf`, line: 2 },
    }),
  );
  const again = listEffectiveSettings([{ path: 'again', text: text.out }]);
  const plain = (some: EffectiveConfig['settings']) =>
    some.map(({ section, key, value }) => `${section} ${key} ${value}`).sort();
  expect(plain(again)).toEqual(plain(shown.settings));
});

test('config explains a broken file', async () => {
  stage.write('efs-utils.conf', '[mount]\nregion = 5%\n');
  const environment = { ...stage.environment, EFS_AGENT_CONFIG: `${stage.directory}/efs-utils.conf` };
  const one = stage.caller({ program: 'efs-agent', environment });

  expect(await runCommandLine(['config'], one)).toBe(2);
  expect(one.error).toContain(
    `${stage.directory}/efs-utils.conf:2: a % must be written %% or %(name)s [config.malformed]`,
  );
});

test('whoami shows source, ARN and expiry', async () => {
  const identity = {
    source: 'metadata:efs-client',
    accessKeyId: 'ASIAEXAMPLE',
    arn: 'arn:aws:sts::111122223333:assumed-role/efs-client/i-0123456789abcdef0',
    expiresAtMs: Date.now() + 3_600_500,
  };
  const conversations = await stage.listen((_message, reply) => reply({ kind: 'identity', identity }));

  expect(await runCommandLine(['whoami', 'mnt', '--region', 'us-east-1'], caller)).toBe(0);

  expect(caller.out).toMatch(
    /^arn +arn:aws:sts:.*\naccess key +ASIAEXAMPLE\nsource +metadata:efs-client\nexpires +20.*Z \(in 1 h 0 min\)\n$/,
  );
  expect(conversations[0]!.messages).toMatchObject([
    { kind: 'whoami', mountPoint: stage.mountPoint, region: 'us-east-1' },
  ]);
  const json = stage.caller({ program: 'efs-agent' });
  await runCommandLine(['whoami', '--json'], json);
  expect(JSON.parse(json.out)).toEqual(identity);
});

test('whoami of a mount without iam is nobody', async () => {
  await stage.listen((_message, reply) => reply({ kind: 'identity', identity: null }));

  await runCommandLine(['whoami', 'mnt'], caller);

  expect(caller.out).toBe('anonymous (without the option iam)\n');
});

test('a tunnel prints exactly its address and ends with 0 when it is interrupted', async () => {
  const conversations = await stage.listen(mountScript());
  const running = runCommandLine(['tunnel', fileSystemId, '-o', 'tls'], caller);
  await expect.poll(() => caller.out).toBe('127.0.0.1:20049\n');

  caller.interrupt();

  expect(await running).toBe(0);
  await expect.poll(() => conversations[0]!.ended).toBe(true);
  expect(conversations[0]!.messages).toMatchObject([{ kind: 'tunnel.open', mountPoint: null }]);
});

test('a tunnel whose agent goes away ends with 2', async () => {
  const script = mountScript();
  await stage.listen((message, reply, socket) => {
    script(message, reply, socket);
    socket.end();
  });

  const status = await runCommandLine(['tunnel', fileSystemId, '-o', 'tls'], caller);

  expect(status).toBe(2);
  expect(caller.error).toContain('[agent.unreachable]');
});

test('a tunnel without tls is refused', async () => {
  expect(await runCommandLine(['tunnel', fileSystemId], caller)).toBe(1);
  expect(caller.error).toContain('The "tls" option is required for a tunnel [option.requires]');
});

test('a tunnel refuses NFS options', async () => {
  const status = await runCommandLine(['tunnel', fileSystemId, '-o', 'tls,rsize=4096'], caller);

  expect(status).toBe(1);
  expect(caller.error).toContain('a tunnel alone has no NFS options: rsize=4096 [option.unsupported]');
});

test('the real tunnel command ends with 0 on SIGTERM', async () => {
  await stage.listen(mountScript());
  const child = spawn(process.execPath, [program, 'tunnel', fileSystemId, '-o', 'tls'], {
    env: stage.environment,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = once(child, 'exit');
  const [line] = await once(child.stdout, 'data');

  child.kill('SIGTERM');

  expect(String(line)).toBe('127.0.0.1:20049\n');
  expect(await exited).toEqual([0, null]);
});

test('an agent in the foreground has the small heap of the service, and no other command has', async () => {
  const child = spawn(program, ['agent'], { env: stage.environment, stdio: ['ignore', 'inherit', 'pipe'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const exited = once(child, 'exit');
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => {
    log += chunk;
  });

  await expect.poll(() => log).toContain('agent.ready');
  expect(readFileSync(`/proc/${child.pid}/cmdline`, 'utf8').split('\0')).toEqual([
    'node',
    ...smallHeap,
    program,
    'agent',
    '',
  ]);
  child.kill('SIGTERM');
  expect(await exited).toEqual([0, null]);
  const [, launch] = readFileSync(program, 'utf8').split('\n');
  expect(launch).toContain(`[ "$1" != agent ] || small='${smallHeap.join(' ')}'`);
});

test('a working directory that has been removed is no defect', async () => {
  const child = spawn(
    'sh',
    [
      '-c',
      'mkdir "$1" && cd "$1" && rmdir "$1" && exec "$2" "$3" status',
      'sh',
      `${stage.directory}/gone`,
      process.execPath,
      program,
    ],
    {
      env: stage.environment,
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  let written = '';
  child.stdout.on('data', (chunk) => {
    written += chunk;
  });

  expect(await once(child, 'close')).toEqual([0, null]);
  expect(written).toBe('the agent is not running; no tunnel is open\n');
});

test('a reader that goes away is no failure', async () => {
  await stage.listen((_message, reply) => reply({ kind: 'status', status: statusOf('/mnt/efs') }));
  const child = spawn(process.execPath, [program, 'status', '--json'], {
    env: stage.environment,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  child.stdout.destroy();

  expect(await once(child, 'exit')).toEqual([0, null]);
});

/** Every command there is, a new one too. */
const commandNames = [
  ...execFileSync(process.execPath, [program, '--help'], { encoding: 'utf8' }).matchAll(
    /^ {2}efs-agent (\S+)/gm,
  ),
].map(([, name]) => name!);

const word = fc.oneof(
  fc.constantFrom(...commandNames),
  fc.constantFrom('-o', '-v', '-f', '-l', '--json', '--', '-', '', '--no-json', '--json=false'),
  fc.constantFrom(
    'check',
    '--as',
    'anonymous',
    '--fstab',
    '--for',
    'debug',
    'bash',
    '--file-system',
    '--listen',
    '--container',
  ),
  fc.constantFrom(
    fileSystemId,
    'tls',
    '/no/such',
    '-otls',
    '--o',
    '--o=',
    '--__proto__',
    '--constructor=1',
    '--a.b=c',
    '-vf',
    '--help=no',
  ),
  fc.string({ maxLength: 10 }),
  fc.string({ unit: 'binary', maxLength: 10 }),
);

test('no command line shows a stack trace, a defect, or ends without a word', async () => {
  expect(commandNames).toContain('log-level');
  await fc.assert(
    fc.asyncProperty(fc.array(word, { maxLength: 7 }), async (argv) => {
      // What is well formed would run until it is ended: it is only read.
      if (argv.includes('agent') || argv.includes('target')) {
        const reading = prepareCommandLine(argv, stage.caller({ program: 'efs-agent' }));
        const thrown: unknown = await reading.then(
          () => null,
          (error) => error,
        );
        if (thrown !== null) expect(thrown).toMatchObject({ code: 'usage' });
        return;
      }
      // These two look at the whole machine once they have root.
      const looks = argv.includes('doctor') || argv.includes('bundle');
      const one = stage.caller({ program: 'efs-agent', uid: looks ? 1_000 : 0 });

      const status = await runCommandLine(argv, one);

      if (status === 0) expect(one.out).not.toBe('');
      else expect(one.error).toMatch(/^efs-agent: [^\n]* \[[a-z-]+(?:\.[a-z-]+)?\]\n {2}\S/);
      expect(one.error + one.out).not.toMatch(/\n\s+at |\[internal\]/);
      expect([0, 1, 2, 32]).toContain(status);
    }),
    { numRuns: 2_000 },
  );
}, 60_000);

test('the real program behaves the same on random command lines', () => {
  const plain = word.filter(
    (one) => !one.includes('\0') && !['agent', 'target', 'doctor', 'bundle'].includes(one),
  );
  fc.assert(
    fc.property(fc.array(plain, { maxLength: 6 }), (argv) => {
      const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...argv], {
        encoding: 'utf8',
        env: stage.environment,
        timeout: 20_000,
      });

      expect([0, 1, 2, 32]).toContain(status);
      if (status !== 0) expect(stderr).toMatch(/^efs-agent: [^\n]* \[[a-z-]+(?:\.[a-z-]+)?\]\n {2}\S/);
      expect(stdout + stderr).not.toMatch(/\n\s+at /);
    }),
    { numRuns: 24 },
  );
}, 60_000);
