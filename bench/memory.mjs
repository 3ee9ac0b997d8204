// `bench memory`: what our processes hold and how often they wake, with many idle tunnels, and what it costs to ask
// the agent about them; beside it one stunnel for each tunnel, as the reference runs it.
import { mkdirSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { build } from 'esbuild';
import { commandLine, family, isListening, sumCpuSeconds, sumPssKib, sumWakeUps } from './processes.mjs';
import { measureQuestions } from './questions.mjs';
import { describeMachine } from './relay.mjs';
import {
  fileSystemId,
  freePort,
  needProgram,
  openStage,
  serverName,
  serviceFlags,
  startAgent,
  startServer,
  Unavailable,
  waitFor,
} from './stage.mjs';
import { formatTable } from './tables.mjs';

const settleMs = 5_000;
/** The identity process leaves after a minute without work. */
const mostIdentityMs = 75_000;
/** More processes than this prove nothing new. */
const mostStunnels = 100;
/** A NULL call of NFS 4, and the length of its answer. */
const nullCall = Buffer.from(
  '8000002c000000010000000000000002000186a300000004000000000000000000000000000000000000000000000048'.padEnd(
    96,
    '0',
  ),
  'hex',
);
const nullReplyBytes = 0x48;

/**
 * @param counts how many tunnels, ascending: the same agent gets more and more.
 *   `identityLeaves`: wait until the process that made the certificates has left.
 */
export async function measureMemory({ say, counts, idleSeconds, identityLeaves }) {
  const stage = await openStage({ say });
  try {
    const server = await startServer(stage);
    const results = [await measureBarePair(stage, idleSeconds)];
    await measureAgent(stage, server, { counts, idleSeconds, identityLeaves }, results);
    try {
      await measureStunnels(stage, server, counts, results);
    } catch (thrown) {
      if (!(thrown instanceof Unavailable)) throw thrown;
      say(`SKIPPED stunnel: ${thrown.message}`);
    }
    return { machine: describeMachine(), date: new Date().toISOString(), idleSeconds, results };
  } finally {
    await stage.close();
  }
}

/** What two processes of node cost when one of them asks the other each two seconds whether it lives, and nothing else. */
async function measureBarePair(stage, idleSeconds) {
  const child = stage.write('child.cjs', `process.on('message', (ping) => process.send(ping));`);
  const parent = stage.write(
    'parent.cjs',
    `const child = require('node:child_process').fork(${JSON.stringify(child)}, { serialization: 'advanced' });
     setInterval(() => child.send({ kind: 'ping' }), 2_000);`,
  );
  const { pid } = stage.start(process.execPath, [...serviceFlags(), parent]);
  await pause(settleMs);
  return { relay: 'two bare node', tunnels: 0, ...(await measureIdle(family(pid), idleSeconds)) };
}

/** What the processes hold, and what they do in so many seconds. */
async function measureIdle(pids, idleSeconds) {
  const worker = pids.filter((pid) => commandLine(pid).includes('worker.cjs'));
  const pss = { pssKib: sumPssKib(pids), workerPssKib: sumPssKib(worker) };
  const look = () => ({ all: sumWakeUps(pids), worker: sumWakeUps(worker), cpu: sumCpuSeconds(pids) });
  const before = look();
  await pause(idleSeconds * 1000);
  const after = look();
  return {
    processes: pids.length,
    ...pss,
    wakeUpsPerSecond: (after.all - before.all) / idleSeconds,
    workerWakeUpsPerSecond: (after.worker - before.worker) / idleSeconds,
    cpuShare: (after.cpu - before.cpu) / idleSeconds,
  };
}

async function measureAgent(stage, server, { counts, idleSeconds, identityLeaves }, results) {
  const home = stage.path('agent/home');
  mkdirSync(join(home, '.aws'), { recursive: true });
  stage.write(
    'agent/home/.aws/credentials',
    '[default]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = example\n',
  );
  // As many as by default: the size of the range is part of what is measured.
  const lower = Math.min(await freePort(), 64_000);
  const { program, controlSocket } = await startAgent(stage, 'agent', {
    mount: [
      `stunnel_cafile = ${stage.ca}`,
      `port_range_lower_bound = ${lower}`,
      `port_range_upper_bound = ${lower + 1_000}`,
    ],
    agent: [`mount_target_port = ${server.tlsPort}`],
  });
  const request = await makeRequest(stage);
  const tunnels = [];
  stage.onClose(() => {
    for (const socket of tunnels.flat()) socket.destroy();
  });
  for (const count of counts) {
    while (tunnels.length < count) tunnels.push(await openTunnel(controlSocket, request));
    if (identityLeaves) await waitForIdentityToLeave(program.pid);
    await pause(settleMs);
    results.push({
      relay: 'efs-agent',
      tunnels: count,
      ...(await measureIdle(family(program.pid), idleSeconds)),
      questions: await measureQuestions(controlSocket, program.pid),
    });
    stage.say(`efs-agent with ${count} idle tunnels measured`);
  }
}

/** Agent and worker remain: what a machine with its mounts done looks like. */
async function waitForIdentityToLeave(agentPid) {
  const deadlineMs = performance.now() + mostIdentityMs;
  while (family(agentPid).length > 2 && performance.now() < deadlineMs) await pause(500);
}

/** The line that opens a tunnel, written by the product's own code. */
async function makeRequest(stage) {
  const outfile = stage.path('request.mjs');
  const contents = `
    import { formatMessage, protocolVersion } from './src/core/control-protocol.ts';
    import { parseMountSpec, parseOptions } from './src/core/mount-spec.ts';
    export const line = formatMessage({ kind: 'tunnel.open', version: protocolVersion, mountPoint: null, environment: {},
      spec: parseMountSpec('${fileSystemId}', parseOptions('tls,iam,mounttargetip=127.0.0.1')) });`;
  const resolveDir = join(import.meta.dirname, '..');
  await build({
    stdin: { contents, resolveDir, loader: 'ts' },
    bundle: true,
    platform: 'node',
    format: 'esm',
    outfile,
  });
  return (await import(outfile)).line;
}

/** A tunnel through which one NULL call has been answered: what a kernel mount leaves behind. Gives its sockets. */
async function openTunnel(controlSocket, request) {
  const control = connect(controlSocket);
  control.write(request);
  const port = await new Promise((ready, fail) => {
    let text = '';
    control.on('data', (chunk) => {
      text += chunk;
      const messages = text
        .split('\n')
        .slice(0, -1)
        .map((line) => JSON.parse(line));
      const failed = messages.find(({ kind }) => kind === 'failed');
      if (failed) fail(new Error(failed.error.message));
      const opened = messages.find(({ kind }) => kind === 'tunnel.ready');
      if (opened) ready(opened.port);
    });
    control.once('error', fail);
    control.once('close', () => fail(new Error('the agent ended the conversation')));
  });
  return [control, await callOnce(port)];
}

function callOnce(port) {
  return new Promise((done, fail) => {
    const socket = connect(port, '127.0.0.1');
    let got = 0;
    socket.write(nullCall);
    socket.on('data', (chunk) => {
      got += chunk.length;
      if (got >= nullReplyBytes) done(socket);
    });
    socket.once('error', fail);
    socket.once('close', () => fail(new Error('the tunnel closed the connection')));
  });
}

async function measureStunnels(stage, server, counts, results) {
  needProgram('stunnel', 'stunnel4', stage.say, ['stunnel4', 'stunnel.target']);
  const programs = [];
  const sockets = [];
  stage.onClose(() => {
    for (const socket of sockets) socket.destroy();
  });
  for (const count of new Set(counts.map((wanted) => Math.min(wanted, mostStunnels)))) {
    while (programs.length < count) {
      const port = await freePort();
      const conf = stage.write(
        `stunnel-${programs.length}.conf`,
        `foreground = yes
debug = 3
pid =
[efs]
client = yes
accept = 127.0.0.1:${port}
connect = 127.0.0.1:${server.tlsPort}
verify = 2
CAfile = ${stage.ca}
cert = ${stage.path('client.pem')}
key = ${stage.path('client.key')}
checkHost = ${serverName}
`,
      );
      const program = stage.start('stunnel', [conf]);
      await waitFor(() => isListening(port), 'stunnel', program);
      programs.push(program);
      sockets.push(await callOnce(port));
    }
    const pids = programs.map(({ pid }) => pid);
    results.push({ relay: 'stunnel', tunnels: count, processes: pids.length, pssKib: sumPssKib(pids) });
  }
}

/** The table as Markdown. */
export function formatMemory({ machine, date, idleSeconds, results }) {
  const digits = (value, count) => (value === undefined ? '-' : value.toFixed(count));
  const inMib = (kib) => digits(kib === undefined ? undefined : kib / 1024, 1);
  const rows = results.map((one, index) => {
    const before = results[index - 1]?.relay === one.relay ? results[index - 1] : null;
    const further =
      before === null ? undefined : (one.pssKib - before.pssKib) / (one.tunnels - before.tunnels);
    return [
      one.relay,
      String(one.tunnels),
      String(one.processes),
      inMib(one.pssKib),
      inMib(one.workerPssKib),
      digits(further, 0),
      digits(one.wakeUpsPerSecond, 1),
      digits(one.workerWakeUpsPerSecond, 1),
      one.cpuShare === undefined ? '-' : `${(one.cpuShare * 100).toFixed(2)} %`,
    ];
  });
  const head = [
    'relay',
    'idle tunnels',
    'processes',
    'PSS MiB',
    'of it worker',
    'KiB per further tunnel',
    'wake-ups/s',
    'of it worker',
    'CPU of a core',
  ];
  const table = `${formatTable(head, rows)}\n\n${formatQuestions(results)}`;
  return `${machine}; ${date}; wake-ups and CPU over ${idleSeconds} s.\n\n${table}\n`;
}

/** What it costs to ask the agent, with so many tunnels. */
function formatQuestions(results) {
  const rows = results.flatMap(({ tunnels, questions }) =>
    questions === undefined
      ? []
      : [
          [
            String(tunnels),
            questions.statusMs.toFixed(0),
            questions.nodeMs.toFixed(0),
            questions.scrapeMs.toFixed(0),
            questions.scrapeCpuMs.toFixed(1),
            (questions.scrapeBytes / 1024).toFixed(0),
          ],
        ],
  );
  const head = ['tunnels', 'efs-agent status ms', 'node -e 0 ms', 'scrape ms', 'its CPU ms', 'its KiB'];
  return formatTable(head, rows);
}

function pause(ms) {
  return new Promise((wake) => setTimeout(wake, ms));
}
