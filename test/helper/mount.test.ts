import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { formatMessage, type ServedMount } from '../../src/core/control-protocol.ts';
import { runMountHelper } from '../../src/helper/program.ts';
import {
  fileSystemId,
  type HelperStage,
  isAlive,
  mountScript,
  openHelperStage,
  type Script,
  type TestCaller,
} from './stage.ts';

let stage: HelperStage;
let caller: TestCaller;
beforeEach(() => {
  stage = openHelperStage();
  caller = stage.caller();
});
afterEach(() => stage.close());

const mount = (options = 'tls', ...more: string[]) =>
  runMountHelper([fileSystemId, stage.mountPoint, '-o', options, ...more], caller);

test('a mount that succeeds prints nothing, ends with 0, and mount.nfs4 gets the default options and the port', async () => {
  const conversations = await stage.listen(mountScript());

  const status = await mount('rw,_netdev,tls,iam');

  expect({ status, out: caller.out, error: caller.error }).toEqual({ status: 0, out: '', error: '' });
  expect(stage.calls('mount')).toEqual([
    `127.0.0.1:/ ${stage.mountPoint} -o rw,_netdev,nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport,port=20049`,
  ]);
  expect(conversations[0]!.messages.map((message) => message.kind)).toEqual(['tunnel.open', 'mount.ended']);
});

test('the request carries the absolute mount point and only the AWS variables that were set', async () => {
  const conversations = await stage.listen(mountScript());
  caller = stage.caller({
    environment: { ...stage.environment, AWS_PROFILE: 'backup', AWS_REGION: '', AWS_SECRET_ACCESS_KEY: 'no' },
  });

  await runMountHelper([`${fileSystemId}:/app`, 'mnt', '-o', 'tls,iam'], caller);

  expect(conversations[0]!.messages[0]).toMatchObject({
    mountPoint: stage.mountPoint,
    environment: { AWS_PROFILE: 'backup' },
    spec: { path: '/app', iam: true },
  });
});

test('a mount point named through a link is mounted under its own name', async () => {
  const conversations = await stage.listen(mountScript());
  symlinkSync(stage.mountPoint, join(stage.directory, 'link'));

  const status = await runMountHelper([fileSystemId, join(stage.directory, 'link'), '-o', 'tls'], caller);

  expect(status).toBe(0);
  expect(conversations[0]!.messages[0]).toMatchObject({ mountPoint: stage.mountPoint });
});

test('the read-ahead of the new mount is set to fifteen reads', async () => {
  await stage.listen(mountScript());

  await mount();

  expect(readAhead()).toBe('15360\n');
});

test('a read-ahead that cannot be set is only told with -v', async () => {
  await stage.listen(mountScript());
  rmSync(join(stage.directory, 'bdi'), { recursive: true });

  const status = await mount('tls', '-v');

  expect(status).toBe(0);
  expect(caller.error).toContain('mount.efs: read-ahead stays as it is');
});

test('with -v every phase is shown with its time', async () => {
  await stage.listen(mountScript());

  await mount('tls', '-v');

  expect(caller.error).toMatch(
    /^mount\.efs: {6}1 ms {2}name\nmount\.efs: +\d+ ms {2}mounting\nmount\.efs: +\d+ ms {2}mounted\n$/,
  );
  expect(stage.calls('mount')[0]).toContain(' -v -o ');
});

test('a mount that takes long shows its phase to a person at a terminal, and to nobody else', async () => {
  await stage.listen((message, reply) => {
    if (message.kind === 'tunnel.open') reply({ kind: 'progress', phase: 'credentials', elapsedMs: 7 });
  });
  const watched = stage.caller({ stderrIsTerminal: true });
  const unwatched = stage.caller();
  watched.limits.slowMountMs = 50;
  unwatched.limits.slowMountMs = 50;
  const running = [watched, unwatched].map((one) =>
    runMountHelper([fileSystemId, stage.mountPoint, '-o', 'tls'], one),
  );

  await expect.poll(() => watched.error).toContain('credentials');

  expect(unwatched.error).toBe('');
  watched.interrupt();
  unwatched.interrupt();
  await Promise.all(running);
});

test('a refused mount shows the words of mount.nfs4 as text, then why, and ends with 32', async () => {
  const denied = 'mount.nfs4: access denied by server while mounting 127.0.0.1:/';
  stage.plan(`fail 32 ${denied}`);
  const conversations = await stage.listen(
    mountScript({
      failure: { kind: 'failed', error: { code: 'access.denied', message: 'nobody may mount', details: {} } },
    }),
  );

  const status = await mount();

  expect(status).toBe(32);
  expect(caller.error).toBe(
    `${denied}\nmount.efs: ${fileSystemId} on ${stage.mountPoint}: nobody may mount [access.denied]\n  Allow elasticfilesystem:ClientMount to this identity in the file system policy.\n`,
  );
  expect(conversations[0]!.messages[1]).toEqual({ kind: 'mount.ended', status: 32, stderr: `${denied}\n` });
});

test('a refusal is tried again only through an access point, 1.5^i seconds and a random one apart', async () => {
  const denied = 'fail 32 mount.nfs4: access denied by server while mounting 127.0.0.1:/';
  stage.plan(denied, denied, 'ok');
  await stage.listen(mountScript());

  const status = await mount('tls,accesspoint=fsap-0123456789abcdef0');

  expect(status).toBe(0);
  expect(caller.pausesMs).toEqual([1_500, 2_000]);
  expect(caller.error).toContain(
    'Mount attempt 1/3 failed due to mount.nfs4: access denied by server while mounting 127.0.0.1:/, wait 1.5 sec before next attempt.\n',
  );
});

test('a reset connection is tried again as often as the agent says, and no more', async () => {
  const reset = 'fail 32 mount.nfs4: Connection reset by peer';
  stage.plan(reset, reset, reset, 'ok');
  await stage.listen(mountScript({ attempts: 3 }));

  const status = await mount();

  expect(status).toBe(32);
  expect(stage.calls('mount')).toHaveLength(3);
});

test('an attempt that hangs is stopped, waited for and repeated at once', async () => {
  stage.plan('hang', 'ok');
  await stage.listen(mountScript({ attemptTimeoutMs: 3_000 }));

  const status = await mount();

  expect(status).toBe(0);
  expect(caller.pausesMs).toEqual([0]);
  expect(caller.error).toBe(
    'Mount attempt 1/3 failed due to no answer within 3 s, wait 0.0 sec before next attempt.\n',
  );
});

test('the last attempt has a deadline of its own: nfs.timeout, and no mount.nfs4 stays', async () => {
  stage.plan('stubborn');
  caller.limits.lastAttemptMs = 300;
  const conversations = await stage.listen(mountScript({ attempts: 1 }));

  const status = await mount();

  expect(status).toBe(32);
  expect(caller.error).toMatch(
    /^mount\.efs: mount\.nfs4 had not mounted .* within 0\.3 s and was stopped \[nfs\.timeout\]\n/,
  );
  expect(isAlive(stage.mountPid()!)).toBe(false);
  expect(conversations[0]!.messages.at(-1)).toMatchObject({ kind: 'mount.ended', status: 32 });
});

test('an attempt that was stopped after the kernel had mounted counts as mounted', async () => {
  stage.plan('mount-then-hang');
  await stage.listen(mountScript({ attemptTimeoutMs: 3_000 }));

  const status = await mount();

  expect({ status, error: caller.error }).toEqual({ status: 0, error: '' });
  expect(stage.calls('mount')).toHaveLength(1);
});

test('an interrupted mount ends with 8, hangs up on the agent and leaves no mount.nfs4 behind', async () => {
  stage.plan('hang');
  const conversations = await stage.listen(mountScript());
  const running = mount();
  await expect.poll(() => stage.mountPid()).not.toBeNull();

  caller.interrupt();

  expect(await running).toBe(8);
  expect(caller.error).toContain('[interrupted]');
  expect(isAlive(stage.mountPid()!)).toBe(false);
  await expect.poll(() => conversations[0]!.ended).toBe(true);
  expect(conversations[0]!.messages.map((message) => message.kind)).toEqual(['tunnel.open']);
});

test('an interruption after the kernel had mounted takes the mount away again', async () => {
  stage.plan('mount-then-hang');
  await stage.listen(mountScript());
  const running = mount();
  await expect.poll(() => stage.mountTable()).toContain('nfs4');

  caller.interrupt();

  expect(await running).toBe(8);
  expect(stage.mountTable()).not.toContain('nfs4');
});

test('a mount is taken away again when the agent goes before it has recorded it', async () => {
  await stage.listen(dyingScript());

  const status = await mount();

  expect(status).toBe(2);
  expect(caller.error).toContain('[agent.unreachable]');
  expect(stage.mountTable()).not.toContain('nfs4');
});

test('an agent that calls because the one before it has died hears of the mount', async () => {
  const callers = join(stage.directory, 'run/callers');
  mkdirSync(callers);
  const heard: string[] = [];
  await stage.listen(dyingScript(() => callAsNextAgent(callers, heard)));

  const status = await mount();

  expect(caller.error).toBe('');
  expect(status).toBe(0);
  expect(heard).toEqual(['mount.ended']);
  expect(stage.mountTable()).toContain('nfs4');
  expect(readdirSync(callers)).toEqual([]);
});

test('an agent that takes one more connection while it dies is not taken for the next one', async () => {
  const callers = join(stage.directory, 'run/callers');
  mkdirSync(callers);
  const heard: string[] = [];
  const conversations = await stage.listen(dyingScript());

  const mounting = mount();
  await expect.poll(() => conversations.length).toBe(2);
  conversations[1]!.hangUp();
  await expect.poll(() => conversations.length).toBe(3);
  callAsNextAgent(callers, heard);

  expect(await mounting).toBe(0);
  expect(heard).toEqual(['mount.ended']);
  await expect.poll(() => conversations[2]!.ended).toBe(true);
});

test('a mount whose agent lives asks for no other', async () => {
  mkdirSync(join(stage.directory, 'run/callers'));
  const conversations = await stage.listen(mountScript());

  const status = await mount();
  // Another connection would come before that of the next command.
  await mount();

  expect(status).toBe(0);
  expect(conversations.map(({ messages }) => messages.map(({ kind }) => kind))).toEqual([
    ['tunnel.open', 'mount.ended'],
    ['compare'],
  ]);
});

test('a mount is taken away again when no agent calls after the one before has died', async () => {
  mkdirSync(join(stage.directory, 'run/callers'));
  caller.limits.agentStartMs = 100;
  await stage.listen(dyingScript());

  const status = await mount();

  expect(status).toBe(2);
  expect(caller.error).toContain('[agent.unreachable]');
  expect(stage.mountTable()).not.toContain('nfs4');
});

test('an agent that stays silent is given up', async () => {
  await stage.listen(() => {});
  caller.limits.silenceMs = 100;

  const status = await mount();

  expect(status).toBe(2);
  expect(caller.error).toContain('the agent said nothing for 0.1 s [agent.unreachable]');
});

test('a failure the agent reports is shown with its code, and mount.nfs4 is not started', async () => {
  await stage.listen((_message, reply) =>
    reply({
      kind: 'failed',
      error: { code: 'target.silent', message: 'cannot reach 10.1.1.6:2049 within 5 s', details: {} },
    }),
  );

  const status = await mount();

  expect(status).toBe(32);
  expect(caller.error).toMatch(
    /^mount\.efs: fs-0123456789abcdef0 on \S+\/mnt: cannot reach 10\.1\.1\.6:2049 within 5 s \[target\.silent\]\n {2}\S/,
  );
  expect(stage.calls('mount')).toEqual([]);
});

test('of two mounts that fail on one standard error each says which it is, once', async () => {
  await stage.listen((message, reply) => {
    if (message.kind !== 'tunnel.open') return;
    const text =
      message.spec.path === '/named' ? `${fileSystemId} has no mount target here` : '10.1.1.6 is silent';
    reply({ kind: 'failed', error: { code: 'target.silent', message: text, details: {} } });
  });

  for (const path of ['named', 'nameless'])
    await runMountHelper([`${fileSystemId}:/${path}`, stage.mountPoint, '-o', 'tls'], caller);

  expect(caller.error.match(/^mount\.efs: .*$/gm)).toEqual([
    `mount.efs: ${fileSystemId} has no mount target here [target.silent]`,
    `mount.efs: ${fileSystemId}:/nameless on ${stage.mountPoint}: 10.1.1.6 is silent [target.silent]`,
  ]);
});

const served = (changes: Partial<ServedMount> = {}): ServedMount => ({
  description: `${fileSystemId}:/`,
  differences: [],
  tunnelDifferences: [],
  port: 20_049,
  server: '127.0.0.1',
  ...changes,
});

test('the same mount there already is fine and said on standard output', async () => {
  showMount();
  const conversations = await stage.listen(mountScript({ served: served() }));

  const status = await mount();

  expect({ status, out: caller.out, error: caller.error }).toEqual({
    status: 0,
    out: `${stage.mountPoint} is already mounted\n`,
    error: '',
  });
  expect(conversations[0]!.messages).toMatchObject([{ kind: 'compare', mountPoint: stage.mountPoint }]);
  expect(stage.calls('mount')).toEqual([]);
});

test('another mount of ours there is no success, and the error says in what it differs', async () => {
  showMount();
  await stage.listen(
    mountScript({ served: served({ differences: ['iam is given there and not given here'] }) }),
  );

  const status = await mount();

  expect(status).toBe(32);
  expect(caller.error).toContain(
    `${fileSystemId}:/, which is not what is asked for (iam is given there and not given here), is mounted on ${stage.mountPoint} [mountpoint.busy]`,
  );
});

test.each(['127.0.0.1:/', 'nas.example.org:/export'])(
  'an NFS mount there that the agent does not know is no success: %s',
  async (source) => {
    showMount(source);
    await stage.listen(mountScript());

    const status = await mount();

    expect(status).toBe(32);
    expect(caller.error).toContain('another NFS file system is mounted on');
  },
);

test('what is no NFS file system there, such as an automount, is mounted over', async () => {
  stage.write('mountinfo', `36 25 0:55 / ${stage.mountPoint} rw shared:1 - autofs systemd-1 rw\n`);
  await stage.listen(mountScript());

  expect(await mount()).toBe(0);
});

test('a remount hands the changed options to mount.nfs4, with the port the mount has', async () => {
  showMount();
  await stage.listen(mountScript({ served: served({ port: 20_077 }) }));

  const status = await mount('rw,tls,remount,ro');

  expect({ status, error: caller.error }).toEqual({ status: 0, error: '' });
  expect(stage.calls('mount')).toEqual([
    `127.0.0.1:/ ${stage.mountPoint} -o rw,remount,ro,nfsvers=4.1,port=20077`,
  ]);
});

test('a remount says what it cannot change, and changes nothing', async () => {
  showMount();
  await stage.listen(
    mountScript({ served: served({ tunnelDifferences: ['cafile is /a there and /b here'] }) }),
  );

  const status = await mount('tls,remount,cafile=/b');

  expect(status).toBe(1);
  expect(caller.error).toContain(
    `a remount changes NFS options only, not what ${stage.mountPoint} goes through: cafile is /a there and /b here [option.unsupported]`,
  );
  expect(stage.calls('mount')).toEqual([]);
});

test('a remount of nothing is an error', async () => {
  expect(await mount('tls,remount')).toBe(32);
  expect(caller.error).toContain('[mountpoint.not-mounted]');
});

test.each([[`${fileSystemId}.efs.us-east-1.amazonaws.com`], ['10.1.1.6'], ['[fd00::6]']])(
  'without tls mount.nfs4 goes straight to the mount target: %s',
  async (server) => {
    const conversations = await stage.listen(mountScript({ server }));

    const status = await runMountHelper(
      [`${fileSystemId}:/app`, stage.mountPoint, '-o', 'ro,port=2050'],
      caller,
    );

    expect({ status, error: caller.error }).toEqual({ status: 0, error: '' });
    expect(stage.calls('mount')).toEqual([
      `${server}:/app ${stage.mountPoint} -o ro,port=2050,nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport`,
    ]);
    expect(conversations[0]!.messages[0]).toMatchObject({ kind: 'tunnel.open', spec: { tls: false } });
  },
);

test.each(['with blanks', 'comma,comma', 'grün', 'quo\'te"', '-dash', '$HOME'])(
  'a mount point may be called %s',
  async (name) => {
    const directory = join(stage.directory, name);
    mkdirSync(directory);
    const conversations = await stage.listen(mountScript());

    const status = await runMountHelper([fileSystemId, directory, '-o', 'tls'], caller);

    expect({ status, error: caller.error }).toEqual({ status: 0, error: '' });
    expect(conversations[0]!.messages[0]).toMatchObject({ mountPoint: directory });
    expect(stage.calls('mount')[0]).toContain(`127.0.0.1:/ ${directory} -o nfsvers`);
  },
);

test('the read-ahead stays as it is on a kernel that does not honour it', async () => {
  stage.write('osrelease', '5.3.18-lp152\n');
  await stage.listen(mountScript());

  await mount();

  expect(readAhead()).toBe('128\n');
});

test('the read-ahead is set again where udev resets it', async () => {
  stage.write('nfsrahead', '');
  await stage.listen(mountScript());
  await mount();

  writeFileSync(join(stage.directory, 'bdi/0:55/read_ahead_kb'), '128\n');

  await expect.poll(readAhead).toBe('15360\n');
});

test.each([
  [3, true],
  [0, false],
])(
  'a name that fails while systemd calls network.target %s is told with the way out',
  async (status, told) => {
    mkdirSync(join(stage.directory, 'systemd'));
    standIn('systemctl', `exit ${status}`);
    await stage.listen((_message, reply) =>
      reply({ kind: 'failed', error: { code: 'dns.failed', message: 'no server answers', details: {} } }),
    );

    expect(await mount()).toBe(32);

    expect(caller.error.includes('no server answers; the network is not up yet')).toBe(told);
    expect(caller.error.includes('Add _netdev to the options in /etc/fstab')).toBe(told);
  },
);

test('netns runs the same command inside the namespace, with the agent of that namespace, and passes its status on', async () => {
  standIn('nsenter', `echo "$EFS_AGENT_RUNTIME_DIR $*" >"$STAND_IN/nsenter-call"; exit 7`);
  stage.write('namespace', '');
  const path = join(stage.directory, 'namespace');

  const status = await mount(`tls,netns=${path}`);

  expect(status).toBe(7);
  expect(readFileSync(join(stage.directory, 'nsenter-call'), 'utf8')).toBe(
    `${stage.directory}/run/netns/${statSync(path).ino} --net=${path} -- /bin/false\n`,
  );
  expect(stage.calls('mount')).toEqual([]);
});

test('netns of the namespace one is in is an ordinary mount', async () => {
  await stage.listen(mountScript());

  expect(await mount('tls,netns=/proc/self/ns/net')).toBe(0);
});

test('a network namespace that is not there is named', async () => {
  expect(await mount('tls,netns=/no/such/namespace')).toBe(32);
  expect(caller.error).toContain(
    'cannot use the network namespace /no/such/namespace: ENOENT [namespace.unusable]',
  );
});

test('a dead directory does not hang the helper', async () => {
  const bin = join(stage.directory, 'bin');
  mkdirSync(bin);
  writeFileSync(join(bin, 'sh'), '#!/bin/sh\nexec sleep 1000\n');
  chmodSync(join(bin, 'sh'), 0o755);
  caller = stage.caller({
    environment: { ...stage.environment, PATH: `${bin}:${stage.environment['PATH']}` },
  });
  caller.limits.lookMs = 100;

  const status = await mount();

  expect(status).toBe(32);
  expect(caller.error).toContain('did not answer within 0.1 s [mountpoint.busy]');
});

test('a mount.nfs4 that cannot be run is named, and the tunnel is given up', async () => {
  const conversations = await stage.listen(mountScript());
  const bin = join(stage.directory, 'bin');
  mkdirSync(bin);
  writeFileSync(join(bin, 'mount.nfs4'), '#!/no/such/interpreter\n');
  chmodSync(join(bin, 'mount.nfs4'), 0o755);
  caller = stage.caller({
    environment: { ...stage.environment, PATH: `${bin}:${stage.environment['PATH']}` },
  });

  const status = await mount();

  expect(status).toBe(32);
  expect(caller.error).toContain('mount.nfs4: ENOENT [nfs.program-missing]');
  await expect.poll(() => conversations[0]!.ended).toBe(true);
});

test('a fake mount does everything but mount, and has it undone', async () => {
  const conversations = await stage.listen(mountScript());

  const status = await mount('tls', '-f');

  expect({ status, error: caller.error }).toEqual({ status: 0, error: '' });
  expect(stage.calls('mount')).toEqual([]);
  await expect.poll(() => conversations[0]!.ended).toBe(true);
  expect(conversations[0]!.messages.map((message) => message.kind)).toEqual(['tunnel.open']);
});

/** An agent that is gone when it hears how the mount ended. */
function dyingScript(died: () => void = () => {}): Script {
  const script = mountScript();
  return (message, reply, socket) => {
    if (message.kind !== 'mount.ended') return script(message, reply, socket);
    socket.destroy();
    died();
  };
}

/** Calls the helper of the one mount that is being made, and takes what it says of its end for good. */
function callAsNextAgent(callers: string, heard: string[]): void {
  const [name] = readdirSync(callers);
  const next = connect(join(callers, name!));
  next.on('data', (chunk) => {
    heard.push(JSON.parse(chunk.toString()).kind);
    next.write(formatMessage({ kind: 'mounted' }));
  });
}

/** Puts a program of this test before all others. */
function standIn(name: string, body: string): void {
  const bin = join(stage.directory, 'bin');
  mkdirSync(bin, { recursive: true });
  writeFileSync(join(bin, name), `#!/bin/sh\n${body}\n`);
  chmodSync(join(bin, name), 0o755);
  const environment = { ...stage.environment, PATH: `${bin}:${stage.environment['PATH']}` };
  caller = stage.caller({ environment });
}

function showMount(source = '127.0.0.1:/'): void {
  const line = `36 25 0:55 / ${stage.mountPoint} rw shared:1 - nfs4 ${source} rw,vers=4.1,port=20049,addr=127.0.0.1\n`;
  writeFileSync(join(stage.directory, 'mountinfo'), `${stage.mountTable()}${line}`);
}

function readAhead(): string {
  return readFileSync(join(stage.directory, 'bdi/0:55/read_ahead_kb'), 'utf8');
}
