// ./check: proves this checkout, from a fresh clone on a fresh Debian-family machine. Node built-ins only:
// it runs before anything is installed.
import { spawn, spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import {
  findLeftProcesses,
  installPackages,
  modulesAreCurrent,
  nodeLines,
  readMountPoints,
} from './check-host.mjs';
import { listFiles, listShellScripts } from './check-tree.mjs';

const usage = 'usage: ./check [--fast]\n  --fast  leave out the virtual machine and the other Node lines\n';
const logFolder = resolve('out/check');
const nodesFolder = resolve('out/node');
const ownNode = { path: process.execPath, version: process.versions.node };
const minuteMs = 60_000;
/** No process of ours may outlive the run; agents and identity processes leave by themselves within seconds. */
const settleMs = 15_000;

/** How the reason of a skipped test begins when no package could change it, such as a missing capability. */
const unavoidable = 'not here: ';

/** A network of its own, with loopback addresses only; a second one, because resolvers take 127.0.0.1 alone for no IPv4 at all. */
const loopbackOnly = [
  ...['unshare', '--net', 'sh', '-c'],
  ...['ip link set lo up && ip address add 127.0.0.2/8 dev lo && exec "$@"', 'sh'],
];

const words = process.argv.slice(2);
if (words.includes('--help') || words.some((word) => word !== '--fast')) {
  process.stdout.write(usage);
  process.exit(words.includes('--help') ? 0 : 1);
}
const fast = words.includes('--fast');
const mark = `EFS_AGENT_CHECK=${randomUUID()}`;
const startedMs = performance.now();
const temporary = mkdtempSync(join(tmpdir(), 'efs-check-'));
chmodSync(temporary, 0o1777);
const environment = { ...process.env, TMPDIR: temporary, EFS_AGENT_CHECK: mark.split('=')[1], NO_COLOR: '1' };
delete environment.FORCE_COLOR;

const results = [];
const counts = { passed: 0, failed: 0, skipped: [] };
/** Process groups of the programs that run now. */
const running = new Set();

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.once(signal, () => {
    for (const pid of running) endGroup(pid);
    rmSync(temporary, { recursive: true, force: true });
    process.exit(1);
  });
}

rmSync(logFolder, { recursive: true, force: true });
mkdirSync(logFolder, { recursive: true });
const mountsBefore = readMountPoints();
const processesBefore = findLeftProcesses(mark);

say(
  `check: Node ${process.versions.node}, logs in out/check${fast ? ', without virtual machine and other Node lines' : ''}`,
);
await runStep('packages', () => installPackages(say));
await runStep('lock file', (step) =>
  command(step, [process.execPath, 'scripts/complete-lock.mjs', '--check']),
);
if (await runStep('npm ci', installModules)) await checkAll();
await runStep('nothing left', checkNothingLeft);
rmSync(temporary, { recursive: true, force: true });
report();

async function checkAll() {
  await runStep('format', (step) => command(step, ['node_modules/.bin/biome', 'format', '.']));
  await runStep('lint', (step) =>
    command(step, ['node_modules/.bin/biome', 'check', '--formatter-enabled=false', '.']),
  );
  await runStep('unused code', (step) => command(step, ['node_modules/.bin/knip']));
  await runStep('types', (step) => command(step, ['node_modules/.bin/tsc', '-p', '.']));
  await runStep('shell scripts', (step) => command(step, ['shellcheck', ...listShellScripts()]));
  await runStep('man pages', (step) =>
    command(step, ['mandoc', '-T', 'lint', '-W', 'warning', ...listManPages()]),
  );
  await runStep('no traces', (step) => command(step, [process.execPath, 'scripts/check-tree.mjs']));
  await runStep('build', (step) => command(step, [process.execPath, 'scripts/build.mjs']));
  await runStep('service', (step) => sayLastLine(step, [process.execPath, 'scripts/check-unit.mjs']));
  await runStep('bundles', (step) => command(step, [process.execPath, 'scripts/check-bundles.mjs']));
  await runStep('tests', (step) => runTests(step, 'fast', { deadlineMs: 15 * minuteMs }));
  if (fast) return;
  await runStep('fuzzing', (step) =>
    sayLastLine(step, [process.execPath, 'test/fuzz/fuzz.mjs', '--seconds=110']),
  );
  await runStep('relay gate', (step) =>
    command(step, [process.execPath, 'bench/bench.mjs', 'gate'], { deadlineMs: 2 * minuteMs }),
  );
  await runStep('interop tests', (step) => runTests(step, 'interop', { deadlineMs: 10 * minuteMs }));
  await testOtherNodeLines();
  const hasVm = await runStep('virtual machine', (step) =>
    command(step, ['scripts/vm/vm', 'build'], { deadlineMs: 12 * minuteMs }),
  );
  if (!hasVm) return;
  await runStep('package tests', (step) => runTests(step, 'packages', { deadlineMs: 15 * minuteMs }));
  await runStep('kernel tests', (step) => runTests(step, 'kernel', { deadlineMs: 30 * minuteMs }));
  await runStep('faults', (step) =>
    command(step, [process.execPath, 'bench/chaos/chaos.mjs', '--short'], { deadlineMs: 10 * minuteMs }),
  );
}

/**
 * The fast tests on the other Node lines: side by side, each in a network of its own, for their ports are fixed; one after
 * the other where there may be no such network.
 */
async function testOtherNodeLines() {
  const apart =
    spawnSync(loopbackOnly[0], [...loopbackOnly.slice(1), 'true'], { stdio: 'ignore' }).status === 0;
  const others = nodeLines.filter((version) => major(version) !== major(ownNode.version));
  const testOn = (version) =>
    runStep(`tests, Node ${major(version)}`, async (step) => {
      const node = { path: await installNode(step, version), version };
      await command(step, [node.path, 'scripts/check-bundles.mjs'], { node });
      const deadlineMs = (apart ? 10 * others.length : 10) * minuteMs;
      return runTests(step, 'fast', { deadlineMs, node, wrapper: apart ? loopbackOnly : [] });
    });
  if (apart) await Promise.all(others.map(testOn));
  else for (const version of others) await testOn(version);
}

/**
 * Runs one step, prints its line, and says whether it held. Steps may run side by side.
 *
 * @param work is given the step, whose log it writes.
 */
async function runStep(name, work) {
  const stepStartedMs = performance.now();
  const step = { log: join(logFolder, `${name.toLowerCase().replace(/[^a-z0-9]+/g, '-')}.log`) };
  let note = '';
  let failure = null;
  try {
    note = (await work(step)) ?? '';
  } catch (error) {
    failure = error;
    if (!error.counted) counts.failed += 1;
  }
  const seconds = ((performance.now() - stepStartedMs) / 1000).toFixed(1);
  say(`${failure ? 'FAIL' : 'ok  '}  ${name.padEnd(16)} ${seconds.padStart(6)} s${note ? `  ${note}` : ''}`);
  if (failure) {
    if (existsSync(step.log)) process.stdout.write(`${readFileSync(step.log, 'utf8').trimEnd()}\n`);
    say(`      ${name}: ${failure.message}`);
  }
  results.push({ name, failed: failure !== null });
  return failure === null;
}

/**
 * Runs a program of the step to its end, its output in the step's log.
 *
 * Errors: when it ends with another status than 0, or not in time; then its whole process group is killed.
 */
function command(step, [file, ...args], { deadlineMs = 5 * minuteMs, node = ownNode, extra = {} } = {}) {
  const log = openSync(step.log, 'a');
  const env = { ...environment, PATH: `${dirname(node.path)}${delimiter}${process.env.PATH}`, ...extra };
  return new Promise((done, fail) => {
    const child = spawn(file, args, { env, stdio: ['ignore', log, log], detached: true });
    closeSync(log);
    running.add(child.pid);
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      endGroup(child.pid);
    }, deadlineMs);
    child.once('error', (error) => {
      clearTimeout(timer);
      running.delete(child.pid);
      fail(error);
    });
    child.once('exit', (status, signal) => {
      clearTimeout(timer);
      running.delete(child.pid);
      if (status === 0) done();
      else if (late) fail(new Error(`not done within ${deadlineMs / minuteMs} minutes`));
      else fail(new Error(`${file} ended with ${signal ?? `status ${status}`}`));
    });
  });
}

/** As `command`; the last line that the program wrote is the note of the step. */
async function sayLastLine(step, words) {
  await command(step, words);
  return readFileSync(step.log, 'utf8').trimEnd().split('\n').at(-1);
}

function endGroup(pid) {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has just ended.
  }
}

async function installModules(step) {
  if (modulesAreCurrent()) return 'node_modules match the lock file';
  await command(step, ['npm', 'ci', '--ignore-scripts', '--no-audit', '--no-fund']);
  return undefined;
}

/** Fetches one release of Node into the clone, from the package registry; gives the path of its binary. */
async function installNode(step, version) {
  const name = `node-linux-${process.arch}`;
  const prefix = join(nodesFolder, version);
  const node = join(prefix, 'node_modules', name, 'bin/node');
  if (!existsSync(node)) {
    mkdirSync(prefix, { recursive: true });
    const options = ['--ignore-scripts', '--no-save', '--no-package-lock', '--no-audit', '--no-fund'];
    await command(step, ['npm', 'install', '--prefix', prefix, ...options, `${name}@${version}`]);
  }
  return node;
}

/** Errors: when a test failed, none ran, or one was skipped although everything it needs can be installed here. */
async function runTests(step, project, { deadlineMs, node = ownNode, wrapper = [] }) {
  const file = join(logFolder, `${project}-${major(node.version)}.json`);
  // The cache of one run is no business of another's beside it.
  const args = ['node_modules/vitest/vitest.mjs', 'run', '--project', project, '--no-cache'];
  const reporters = ['--reporter=default', '--reporter=./scripts/check-reporter.mjs'];
  let failure = null;
  try {
    const extra = { CHECK_SUMMARY: file, EFS_AGENT_BUILT: '1' };
    await command(step, [...wrapper, node.path, ...args, ...reporters], { deadlineMs, node, extra });
  } catch (error) {
    failure = error;
  }
  if (!existsSync(file)) throw failure ?? new Error('the tests gave no summary');
  const { passed, failed, skipped, unhandled } = JSON.parse(readFileSync(file, 'utf8'));
  counts.passed += passed;
  counts.failed += failed.length;
  counts.skipped.push(...skipped);
  const note = `${passed} passed, ${failed.length} failed, ${skipped.length} skipped`;
  if (failed.length > 0)
    throw Object.assign(new Error([note, ...failed].join('\n        ')), { counted: true });
  if (failure !== null || unhandled > 0)
    throw failure ?? new Error(`${unhandled} errors outside of any test`);
  if (passed === 0) throw new Error('no test ran');
  const avoidable = skipped.filter(({ why }) => !why.startsWith(unavoidable));
  if (avoidable.length > 0 && process.getuid() === 0) {
    throw new Error(
      `${note}; as root every part can be installed, and only "${unavoidable}…" is a reason to skip`,
    );
  }
  return note;
}

async function checkNothingLeft() {
  const giveUpMs = performance.now() + settleMs;
  const look = () => [
    ...findLeftProcesses(mark).filter((line) => !processesBefore.includes(line)),
    ...readMountPoints()
      .filter((path) => !mountsBefore.includes(path))
      .map((path) => `mount ${path}`),
    ...readdirSync(temporary)
      .filter((name) => name.startsWith('efs-'))
      .map((name) => `file ${listBelow(join(temporary, name)).join(' ')}`),
  ];
  while (look().length > 0 && performance.now() < giveUpMs)
    await new Promise((wake) => setTimeout(wake, 200));
  const left = look();
  if (left.length > 0) throw new Error(`left behind:\n        ${left.join('\n        ')}`);
}

/** A path and a few of those below it: they tell which test forgot it, and what wrote there last. */
function listBelow(path) {
  const below = statSync(path).isDirectory() ? readdirSync(path, { recursive: true }) : [];
  return [path, ...below.slice(0, 12)];
}

function report() {
  const failed = results.filter((result) => result.failed).map((result) => result.name);
  say('');
  for (const { name, why } of counts.skipped) say(`skipped: ${name} (${why})`);
  const minutes = ((performance.now() - startedMs) / minuteMs).toFixed(1);
  say(
    failed.length === 0
      ? `everything held, in ${minutes} minutes`
      : `failed after ${minutes} minutes: ${failed.join(', ')}`,
  );
  say(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped.length} skipped`);
  process.exitCode = failed.length === 0 ? 0 : 1;
}

/** Our man pages; those that only include another one have nothing of their own to check. */
function listManPages() {
  return listFiles().filter((name) => /^docs\/man\/.*\.\d$/.test(name));
}

function major(version) {
  return Number.parseInt(version, 10);
}

function say(line) {
  process.stdout.write(`${line}\n`);
}
