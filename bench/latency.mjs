// `bench latency`: how long mount.efs takes, all of it but the kernel's part: mount.nfs4 is a stand-in that succeeds
// at once. Mount target and instance metadata are the local ones. A bare node in the same rounds is the yardstick.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { commandLine, family, findProcesses, sumCpuSeconds } from './processes.mjs';
import { describeMachine } from './relay.mjs';
import { fileSystemId, firstLine, freePort, openStage, run, startAgent, waitFor } from './stage.mjs';
import { formatTable, median } from './tables.mjs';

/** Against `node -e 0` in the same round, and from nothing; docs/decisions/0005. */
const goals = { warmAboveNodeMs: 100, coldMs: 1_500, crowdMs: 5_000 };

export async function measureLatency({ say, rounds, coldRounds, crowd }) {
  const stage = await openStage({ say });
  try {
    const mounts = await openMounts(stage);
    const samples = new Map(Object.keys(kinds).map((name) => [name, []]));
    for (let round = 0; round < rounds; round += 1) {
      for (const [name, { prepare, command, cold }] of Object.entries(kinds)) {
        if (cold && round >= coldRounds) continue;
        const context = cold ? mounts.cold : mounts.warm;
        await prepare?.(stage, context);
        const { words, environment } = command(stage, context);
        const startedMs = performance.now();
        const { status, stderr } = spawnSync(process.execPath, words, { env: environment, encoding: 'utf8' });
        const elapsedMs = performance.now() - startedMs;
        if (status !== 0) throw new Error(`${name}: ${stderr.trim()}`);
        samples.get(name).push(elapsedMs);
      }
      if ((round + 1) % 5 === 0) say(`${round + 1} of ${rounds} rounds done`);
    }
    const crowds = await measureCrowds(stage, mounts.warm, crowd);
    return {
      machine: describeMachine(),
      date: new Date().toISOString(),
      samples: Object.fromEntries(samples),
      crowds,
    };
  } finally {
    await stage.close();
  }
}

const node = 'node -e 0';
const warm = 'mount.efs tls,iam, agent warm';
const cold = 'mount.efs tls,iam, no agent';
const kinds = {
  [node]: { command: (_stage, { env }) => ({ words: ['-e', '0'], environment: env }) },
  [warm]: { command: mount('tls,iam') },
  'mount.efs tls,iam, agent warm, identity process gone': { prepare: endIdentity, command: mount('tls,iam') },
  'mount.efs tls, agent warm': { command: mount('tls') },
  [cold]: { cold: true, prepare: endAgent, command: mount('tls,iam') },
};

function mount(options) {
  return (stage, { env, mountPoint }) => ({
    words: [
      join(stage.dist, 'mount-efs.cjs'),
      fileSystemId,
      mountPoint,
      '-o',
      `${options},mounttargetip=127.0.0.1`,
    ],
    environment: env,
  });
}

/** The local mount target, a warm agent, and a place where none runs yet. */
async function openMounts(stage) {
  const command = [join(stage.dist, 'efs-agent.mjs'), 'target', '--file-system', fileSystemId, '--json'];
  const places = ['--listen', `127.0.0.1:${await freePort()}`, '--metadata', `127.0.0.1:${await freePort()}`];
  const target = stage.start(process.execPath, [...command, ...places, '--events', stage.path('events')]);
  const { conf } = JSON.parse(await firstLine(target, 'efs-agent target'));
  const ports = await freePort();
  const range = `port_range_lower_bound = ${Math.min(ports, 60_000)}\nport_range_upper_bound = 65000\n`;

  const bin = stage.path('bin');
  mkdirSync(bin);
  chmodSync(stage.write('bin/mount.nfs4', '#!/bin/sh\nexit 0\n'), 0o755);
  const mountPoint = stage.path('mnt');
  mkdirSync(mountPoint);
  const PATH = `${bin}:${process.env.PATH}`;

  const configuration = stage.write('mounts.conf', conf.replace('[mount]\n', `[mount]\n${range}`));
  const { program, env } = await startAgent(stage, 'warm', {
    environment: { PATH, EFS_AGENT_CONFIG: configuration },
  });
  const coldDir = stage.path('cold');
  const coldEnv = { ...env, EFS_AGENT_RUNTIME_DIR: coldDir };
  const mounts = {
    warm: { env, mountPoint, agentPid: program.pid },
    cold: { env: coldEnv, mountPoint, runtimeDir: coldDir, otherAgentPid: program.pid },
  };
  stage.onClose(() => endAgent(stage, mounts.cold));
  const { words, environment } = mount('tls,iam')(stage, mounts.warm);
  await run(process.execPath, words, { env: environment });
  return mounts;
}

/** So many at once: bare nodes, the yardstick, and mounts; with the CPU seconds that the agent's processes take for them. */
async function measureCrowds(stage, { env, agentPid }, count) {
  const bare = await runCrowd(count, () => ({ words: ['-e', '0'], environment: env }));
  const agentCpu = () => sumCpuSeconds(family(agentPid));
  const before = agentCpu();
  const mounted = await runCrowd(count, (index) => {
    const mountPoint = stage.path(`crowd-${index}`);
    mkdirSync(mountPoint);
    return mount('tls,iam')(stage, { env, mountPoint });
  });
  return { count, bare, mounted, agentCpuSeconds: agentCpu() - before };
}

/** Milliseconds from the start of all to the end of each; of those that failed, what they wrote. */
async function runCrowd(count, commandOf) {
  const commands = Array.from({ length: count }, (_, index) => commandOf(index));
  const startedMs = performance.now();
  const failures = [];
  const elapsedMs = await Promise.all(
    commands.map(async ({ words, environment }) => {
      const child = spawn(process.execPath, words, { env: environment, stdio: ['ignore', 'ignore', 'pipe'] });
      let stderr = '';
      child.stderr.on('data', (chunk) => {
        stderr += chunk;
      });
      const [status] = await once(child, 'close');
      if (status !== 0) failures.push(stderr.trim());
      return performance.now() - startedMs;
    }),
  );
  return { elapsedMs, failures };
}

/** As after a minute without a new certificate. */
async function endIdentity(stage, { agentPid }) {
  const [pid] = family(agentPid).filter((one) => commandLine(one).includes(join(stage.dist, 'identity.cjs')));
  if (pid !== undefined) await end([pid]);
}

/** Ends the agent that the last cold mount started, with its children, and everything it left. */
async function endAgent(stage, { runtimeDir, otherAgentPid }) {
  const agents = findProcesses(join(stage.dist, 'agent.cjs')).filter((pid) => pid !== otherAgentPid);
  await end(agents.flatMap(family));
  rmSync(runtimeDir, { recursive: true, force: true });
}

async function end(pids) {
  for (const pid of pids) process.kill(pid, 'SIGKILL');
  await waitFor(() => pids.every((pid) => commandLine(pid) === ''), `processes ${pids.join(', ')} to end`);
}

/** The table as Markdown. */
export function formatLatency({ machine, date, samples, crowds }) {
  const bare = samples[node];
  const rows = Object.entries(samples).map(([name, own]) => [
    name,
    String(own.length),
    median(own).toFixed(0),
    Math.min(...own).toFixed(0),
    Math.max(...own).toFixed(0),
    name === node ? '-' : median(own.map((one, round) => one - bare[round])).toFixed(0),
  ]);
  const table = formatTable(['command', 'n', 'median ms', 'min', 'max', 'above node -e 0'], rows);
  const above = median(samples[warm].map((one, round) => one - bare[round]));
  const coldMs = median(samples[cold]);
  const verdict = [
    [
      'warm, above node -e 0',
      `at most ${goals.warmAboveNodeMs} ms`,
      `${above.toFixed(0)} ms`,
      above <= goals.warmAboveNodeMs,
    ],
    ['no agent', `at most ${goals.coldMs} ms`, `${coldMs.toFixed(0)} ms`, coldMs <= goals.coldMs],
    [
      `${crowds.count} at once, 99th percentile`,
      `at most ${goals.crowdMs} ms`,
      `${percentile(crowds.mounted.elapsedMs, 0.99).toFixed(0)} ms`,
      crowds.mounted.failures.length === 0 && percentile(crowds.mounted.elapsedMs, 0.99) <= goals.crowdMs,
    ],
  ].map(([what, goal, measured, met]) => [what, goal, measured, met ? 'met' : 'MISSED']);
  const goalTable = formatTable(['mount.efs tls,iam, median', 'goal', 'measured', ''], verdict);
  const crowdRows = [
    [node, crowds.bare, null],
    [warm, crowds.mounted, crowds.agentCpuSeconds],
  ].map(([name, own, cpuSeconds]) => [
    name,
    String(own.failures.length),
    percentile(own.elapsedMs, 0.5).toFixed(0),
    percentile(own.elapsedMs, 0.99).toFixed(0),
    cpuSeconds === null ? '-' : ((cpuSeconds * 1_000) / crowds.count).toFixed(1),
  ]);
  const crowdHead = [`${crowds.count} at once`, 'failed', 'p50 ms', 'p99 ms', 'CPU ms of the agent for each'];
  const crowdTable = formatTable(crowdHead, crowdRows);
  return `${machine}; ${date}.\n\n${table}\n\n${crowdTable}\n\n${goalTable}\n`;
}

function percentile(values, share) {
  const ascending = values.toSorted((one, other) => one - other);
  return ascending[Math.ceil(share * ascending.length) - 1];
}
