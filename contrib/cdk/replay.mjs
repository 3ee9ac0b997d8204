// Plays scenes 1 to 6 on the instance of this stack, writes down what is to be seen, with names in the place of ids,
// addresses, ports and times, and compares it with observed.txt: what the same program saw with the local mount target.
// One file, and nothing but Node's own modules: it is copied to the instance alone. Works through the AWS command line.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';

const usage = `usage: replay.mjs --file-system fs-ID --role ARN --region NAME --access-point fsap-ID=UID --access-point fsap-ID=UID
  --settle SECONDS  how long a changed policy takes until it holds everywhere, 60 by default
  --events MINUTES  how long to wait for CloudTrail, 25 by default
`;
const minuteMs = 60_000;
const mountPoint = '/mount/efs';
const otherMountPoint = '/mount/other';
const allActions = ['ClientMount', 'ClientRootAccess', 'ClientWrite'];

const options = readOptions();
checkPlace();
const dnsName = `${options.fileSystem}.efs.${options.region}.amazonaws.com`;
const [, , , , account] = options.role.split(':');
const folder = mkdtempSync(join(tmpdir(), 'efs-replay-'));
/** What differs from one setting to the next, longer texts first, and what stands for it. */
const names = [
  [
    new RegExp(`arn:aws:sts::${account}:assumed-role/${options.role.split('/').at(-1)}/[\\w-]+`, 'g'),
    'SESSION',
  ],
  [options.role, 'ROLE'],
  [options.fileSystem, 'FILE-SYSTEM'],
  ...options.accessPoints.flatMap(({ id, uid }, index) => [
    [id, `ACCESS-POINT-${index + 1}`],
    [`${uid}:${uid}`, `USER-${index + 1}`],
  ]),
  [account, 'ACCOUNT'],
  [options.region, 'REGION'],
  [folder, 'FOLDER'],
  [/\bASIA[A-Z0-9]+/g, 'ASIA-KEY'],
  [/\bport=\d+/g, 'port=PORT'],
  [/\bwait [\d.]+ sec\b/g, 'wait N sec'],
];
/** What is played: its title, what was seen, and the whole seconds, both included, in which it was. */
const scenes = [];
let lines = [];
let policyNow;

try {
  nameAddresses();
  const said = [];
  await playAll();
  await readEvents();
  for (const scene of scenes) said.push(`== ${scene.title}`, ...scene.lines, '');
  const observed = said.join('\n');
  process.stdout.write(observed);
  process.exitCode = compare(observed);
} catch (error) {
  fail(error);
}
try {
  unmountAll();
  // Nothing to put back when not even the first one could be set.
  if (policyNow !== undefined) setPolicy(policyFor(allActions));
} catch (error) {
  fail(error);
}
rmSync(folder, { recursive: true });

function fail(error) {
  process.stderr.write(`replay: ${error.message}\n`);
  process.exitCode = 2;
}

async function playAll() {
  const iam = `mount -t efs -o tls,iam ${options.fileSystem} ${mountPoint}`;
  const anonymous = `mount -t efs -o tls ${options.fileSystem} ${mountPoint}`;
  const plain = `mount -t nfs4 -o nfsvers=4.1 ${dnsName}:/ ${mountPoint}`;
  const through = (index, where = mountPoint) =>
    `mount -t efs -o tls,iam,accesspoint=${options.accessPoints[index].id} ${options.fileSystem} ${where}`;
  const files = `${mountPoint}/replay`;

  await play('1. Mounting with IAM', policyFor(allActions), async () => {
    see(`getent ahostsv4 ${dnsName} | cut -d ' ' -f 1 | sort -u`);
    see(iam);
    see(`df --output=source,fstype,target ${mountPoint} | tr -s ' '`);
    see(`mount -t nfs4 | grep ' ${mountPoint} '`);
    seeSockets();
    seeStatus();
    see(`rm -rf ${files} && mkdir -p -m 777 ${files} ${files}/shared`);
    see(`(umask 077; echo mine > ${files}/private)`);
    see(`head -c 4M /dev/urandom | tee ${files}/data | sha256sum > ${folder}/sum && sync ${files}/data`);
    see('echo 3 > /proc/sys/vm/drop_caches');
    see(`sha256sum < ${files}/data | cmp - ${folder}/sum && stat -c '%u:%g %s' ${files}/data`);
    see(`umount ${mountPoint}`);
    await seeNothingLeft();
  });
  await play('2. Anonymous, plain NFS', policyFor(allActions), () => see(plain));
  await play('3. TLS without IAM', policyFor(allActions), async () => {
    see(anonymous);
    await seeNothingLeft();
  });
  await play('4. The default policy', null, () => {
    see(`${plain} && umount ${mountPoint}`);
    see(`${anonymous} && umount ${mountPoint}`);
  });
  await play('5. ClientWrite and ClientRootAccess', policyFor(['ClientWrite', 'ClientRootAccess']), () =>
    see(iam),
  );
  await play('5. ClientMount', policyFor(['ClientMount']), () => {
    see(iam);
    see(`head -c 4M ${files}/data | wc -c; cat ${files}/private`);
    // The service does it one way or the other; either is right.
    see(`touch ${files}/new 2>&1 | sed -E 's/Read-only file system|Permission denied/REFUSED/'`);
  });
  await play('5. ClientMount and ClientWrite', policyFor(['ClientMount', 'ClientWrite']), () => {
    see(iam);
    see(`touch ${files}/shared/by-root && stat -c '%u:%g' ${files}/shared/by-root`);
    see(`touch ${files}/private`);
  });
  await play('6. An access point', policyFor(allActions), () => {
    see(through(0));
    see(`stat -c '%u:%g %a' ${mountPoint}`);
    see(`ls ${files}`);
    see(`rm -f ${mountPoint}/by-* && touch ${mountPoint}/by-root`);
    see(`setpriv --reuid 4321 --regid 4321 --clear-groups touch ${mountPoint}/by-another`);
    see(`stat -c '%u:%g %n' ${mountPoint}/by-*`);
  });
  const [first] = options.accessPoints;
  const arn = `arn:aws:elasticfilesystem:${options.region}:${account}:access-point/${first.id}`;
  const only = { StringEquals: { 'elasticfilesystem:AccessPointArn': arn } };
  await play('6. A policy for one access point', policyFor(allActions, only), () => {
    see(`${through(0)} && umount ${mountPoint}`);
    see(through(1));
    see(iam);
  });
  await play('6. Two access points at once', policyFor(allActions), () => {
    see(through(0));
    see(through(1, otherMountPoint));
    see(
      `echo first > ${mountPoint}/name; echo second > ${otherMountPoint}/name; touch ${mountPoint}/only-first`,
    );
    see(`cat ${mountPoint}/name ${otherMountPoint}/name; ls ${otherMountPoint}/only-first`);
    see(`rm ${mountPoint}/name ${otherMountPoint}/name ${mountPoint}/only-first`);
  });
}

/** Ends before anything is changed, where nothing can be mounted. */
function checkPlace() {
  const leave = (why) => {
    process.stderr.write(`replay: ${why}\n`);
    process.exit(2);
  };
  if (process.getuid() !== 0) leave('only root can mount');
  must(`mkdir -p ${mountPoint} ${otherMountPoint}`);
  for (const directory of [mountPoint, otherMountPoint])
    if (run(`mountpoint -q ${directory}`).status === 0) leave(`something is mounted on ${directory}`);
}

function nameAddresses() {
  const target = must(`getent ahostsv4 ${dnsName} | cut -d ' ' -f 1 | sort -u`).trim();
  const [, own] = / src ([\d.]+)/.exec(must(`ip -o route get ${target}`));
  const whole = (address) => new RegExp(`(?<![\\d.])${address.replaceAll('.', '[.]')}(?![\\d.]*\\d)`, 'g');
  names.push([whole(target), 'TARGET'], [whole(own), 'INSTANCE']);
}

/** One scene, in whole seconds of its own: CloudTrail's times have no finer ones. */
async function play(title, policy, body) {
  process.stderr.write(`${new Date().toISOString()} ${title}\n`);
  if (setPolicy(policy)) await pause(options.settleMs);
  await pause(1_000 - (Date.now() % 1_000));
  lines = [];
  const fromMs = Date.now();
  await body();
  unmountAll();
  scenes.push({ title, lines, fromMs, toMs: Date.now() });
}

function policyFor(actions, condition = {}) {
  const statement = {
    Effect: 'Allow',
    Principal: { AWS: options.role },
    Action: actions.map((action) => `elasticfilesystem:${action}`),
    Resource: '*',
    Condition: { Bool: { 'elasticfilesystem:AccessedViaMountTarget': 'true' }, ...condition },
  };
  return JSON.stringify({ Version: '2012-10-17', Statement: [statement] });
}

/** Null takes the policy away. Says whether that is a change. */
function setPolicy(policy) {
  if (policy === policyNow) return false;
  const where = `--region ${options.region} --file-system-id ${options.fileSystem}`;
  if (policy === null) must(`aws efs delete-file-system-policy ${where}`);
  else {
    const file = join(folder, 'policy.json');
    writeFileSync(file, policy);
    must(`aws efs put-file-system-policy ${where} --policy file://${file}`);
  }
  policyNow = policy;
  return true;
}

/** Runs a command as a person would type it, and notes it with what it says. */
function see(command) {
  const { status, text } = run(command);
  note(`# ${command}`, ...text.split('\n').filter(Boolean), ...(status === 0 ? [] : [`status ${status}`]));
}

function note(...texts) {
  lines.push(...texts.map(withNames));
}

/** What came in no order of its own: each once, in the order of the names. */
function noteSet(texts) {
  lines.push(...[...new Set(texts.map(withNames))].sort());
}

function withNames(text) {
  return names.reduce((all, [what, name]) => all.replaceAll(what, name), text);
}

/** The listener, the connections through it, and those to the mount target; how many of each is no matter. */
function seeSockets() {
  note('# ss -Hant');
  noteSet(listSockets(/,port=(\d+)/.exec(run(`grep ' ${mountPoint} nfs4 ' /proc/mounts`).text)?.[1]));
}

function listSockets(port) {
  const end = (address) =>
    address.replace(/:(\d+)$/, (_, own) => (own === port ? ':PORT' : own === '2049' ? ':2049' : ':ANY'));
  return must('ss -Hant')
    .split('\n')
    .map((line) => line.split(/\s+/))
    .filter(([state]) => state === 'LISTEN' || state === 'ESTAB')
    .map(([state, , , from = '', to = '']) =>
      state === 'LISTEN' ? `LISTEN ${end(from)}` : `ESTAB ${end(from)} ${end(to)}`,
    )
    .filter((line) => /:PORT|ESTAB .*:2049$/.test(line));
}

function readMounts() {
  return JSON.parse(must('efs-agent status --json')).mounts;
}

function seeStatus() {
  note('# efs-agent status --json');
  for (const { fileSystemId, state, address, tls, iam, identity } of readMounts())
    note(JSON.stringify({ fileSystemId, state, address, tls, iam, identity: identity?.arn ?? null }));
}

/** Waits a minute at most until no connection to a mount target and no mount is there any more. */
async function seeNothingLeft() {
  const look = () => [...listSockets('none'), ...readMounts().map(({ state }) => `a mount, ${state}`)];
  let left = look();
  for (const endMs = Date.now() + minuteMs; left.length > 0 && Date.now() < endMs; left = look())
    await pause(500);
  note(...(left.length === 0 ? ['nothing is left'] : left));
}

function unmountAll() {
  for (const directory of [mountPoint, otherMountPoint])
    if (run(`mountpoint -q ${directory}`).status === 0)
      run(`umount ${directory} || umount -f -l ${directory}`);
}

/** Adds to each scene what the service recorded of it: each kind of event once, in a fixed order. */
async function readEvents() {
  const endMs = Date.now() + options.eventsMs;
  let events = await lookUpEvents();
  const isComplete = () => scenes.every((scene) => events.some((event) => isOf(scene, event)));
  while (!isComplete() && Date.now() < endMs) {
    process.stderr.write(`${new Date().toISOString()} waiting for CloudTrail\n`);
    await pause(minuteMs / 2);
    events = await lookUpEvents();
  }
  for (const scene of scenes) {
    lines = scene.lines;
    note('recorded:');
    noteSet(events.filter((event) => isOf(scene, event)).map(describeEvent));
  }
}

function isOf({ fromMs, toMs }, { eventTime, resources = [] }) {
  const atMs = Date.parse(eventTime);
  return (
    atMs >= fromMs - 1_000 && atMs <= toMs && resources.some(({ ARN }) => ARN.endsWith(options.fileSystem))
  );
}

async function lookUpEvents() {
  const since = new Date(scenes[0].fromMs - 1_000).toISOString();
  const attribute = 'AttributeKey=EventName,AttributeValue=NewClientConnection';
  const found = must(
    `aws cloudtrail lookup-events --region ${options.region} --lookup-attributes ${attribute} --start-time ${since} --output json`,
  );
  return JSON.parse(found).Events.map(({ CloudTrailEvent }) => JSON.parse(CloudTrailEvent));
}

function describeEvent(event) {
  const { type, arn, accountId, accessKeyId, sessionContext } = event.userIdentity;
  return JSON.stringify({
    ...(event.errorCode === undefined ? {} : { errorCode: event.errorCode }),
    identity: { type, ...(arn === undefined ? { accountId } : { arn, accessKeyId }) },
    ...(sessionContext === undefined ? {} : { issuer: sessionContext.sessionIssuer.arn }),
    permissions: event.serviceEventDetails.permissions,
    from: event.serviceEventDetails.sourceIpAddress,
    resources: event.resources.map(({ ARN }) => ARN).sort(),
    source: [event.eventSource, event.eventType, event.eventCategory, event.sourceIPAddress, event.userAgent],
    readOnly: event.readOnly,
  });
}

/** Says on standard error where it differs from what was seen with the local mount target. */
function compare(observed) {
  const file = join(folder, 'here.txt');
  writeFileSync(file, observed);
  const kept = join(import.meta.dirname, 'observed.txt');
  const { status, text } = run(`diff -u --label 'local mount target' --label here ${kept} ${file}`);
  process.stderr.write(status === 0 ? 'Every observation is that of the local mount target.\n' : text);
  return status;
}

function run(command) {
  const env = { ...process.env, LC_ALL: 'C' };
  const { status, stdout, error } = spawnSync('bash', ['-c', `exec 2>&1\n${command}`], {
    env,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: 5 * minuteMs,
    killSignal: 'SIGKILL',
  });
  if (error !== undefined) throw error;
  return { status, text: stdout };
}

function must(command) {
  const { status, text } = run(command);
  if (status !== 0) throw new Error(`${command}: status ${status}\n${text}`);
  return text;
}

function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        'file-system': { type: 'string' },
        role: { type: 'string' },
        region: { type: 'string' },
        'access-point': { type: 'string', multiple: true },
        settle: { type: 'string', default: '60' },
        events: { type: 'string', default: '25' },
        help: { type: 'boolean' },
      },
    });
    if (values.help) {
      process.stdout.write(usage);
      process.exit(0);
    }
    const read = (name, pattern) => {
      if (!pattern.test(values[name] ?? '')) throw new Error(`--${name} is missing or malformed`);
      return values[name];
    };
    const accessPoints = (values['access-point'] ?? []).map((text) => {
      const [, id, uid] = /^(fsap-[0-9a-f]+)=(\d+)$/.exec(text) ?? [];
      if (id === undefined) throw new Error(`--access-point ${text}: expected fsap-ID=UID`);
      return { id, uid };
    });
    if (accessPoints.length !== 2) throw new Error('give two access points');
    return {
      fileSystem: read('file-system', /^fs-[0-9a-f]+$/),
      role: read('role', /^arn:aws:iam::\d{12}:role\/[\w+=,.@/-]+$/),
      region: read('region', /^[a-z0-9-]+$/),
      accessPoints,
      settleMs: Number(read('settle', /^\d+$/)) * 1_000,
      eventsMs: Number(read('events', /^\d+$/)) * minuteMs,
    };
  } catch (error) {
    process.stderr.write(`replay: ${error.message}\n${usage}`);
    process.exit(2);
  }
}
