// `bench gate`: a regression gate that does not depend on how busy the machine is. It counts system calls, which a
// change of the data plane alters and a neighbour hardly does; the limits leave room for what it does.
import { spawnSync } from 'node:child_process';
import { describeMachine, loads, runLoad } from './relay.mjs';
import { openEfsAgent, ownRelays } from './relays.mjs';
import { openStage, startServer, waitFor } from './stage.mjs';
import { formatTable } from './tables.mjs';

const seconds = 1.5;
const tracepoint = 'raw_syscalls:sys_enter';

/**
 * System calls of agent and worker for each record (call and reply together). Measured 6 to 8, 0.5 to 1.6, 32 to 38,
 * 23 to 29. A relay that loses its gathering makes 64 more for each MiB; 6 for a small call is none shared with another.
 */
const limits = { 'calls-1': 10, 'calls-64': 6, 'reads-1m': 85, 'writes-1m': 60 };
/** Where system calls cannot be counted: CPU for each unit against plain pipe() in the same run. */
const mostOfPipe = 1.5;

export async function measureGate({ say }) {
  const stage = await openStage({ say });
  try {
    const server = await startServer(stage);
    const relay = await openEfsAgent(stage, server);
    const counter = counters.find(({ probe }) => probe());
    if (counter === undefined)
      say('neither perf nor strace can count system calls here: comparing CPU with pipe()');
    const results =
      counter === undefined
        ? await compareWithPipe(stage, server, relay)
        : await countCalls(stage, server, relay, counter);
    const held = results.every(({ measured, limit }) => measured <= limit);
    const how = counter?.name ?? 'CPU';
    return { machine: describeMachine(), date: new Date().toISOString(), how, held, results };
  } finally {
    await stage.close();
  }
}

/** Ways to count, the one that disturbs least first. */
const counters = [
  {
    name: 'perf',
    probe: () => works('perf', ['stat', '-x', ',', '-e', tracepoint, 'true'], /^\d+,/m),
    start: (stage, pids) => stage.start('perf', ['stat', '-x', ',', '-e', tracepoint, '-p', pids.join(',')]),
    read: (output) => Number(/^(\d+),/m.exec(output)?.[1]),
  },
  {
    name: 'strace',
    probe: () => works('strace', ['-c', 'true'], /total$/m),
    start: (stage, pids) =>
      stage.start('strace', ['-f', '-c', ...pids.flatMap((pid) => ['-p', String(pid)])]),
    read: (output) => Number(/^\S+ +\S+ +(?:\S+ +)?(\d+) +(?:\d+ +)?total$/m.exec(output)?.[1]),
  },
];

function works(command, args, sign) {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: 'utf8' });
  return status === 0 && sign.test(stdout + stderr);
}

async function countCalls(stage, server, relay, counter) {
  const results = [];
  for (const [id, limit] of Object.entries(limits)) {
    const counting = counter.start(stage, relay.pids());
    const outcome = await runLoad(stage, server, relay, loads[id], seconds);
    counting.child.kill('SIGINT');
    await waitFor(() => counting.ended, counter.name);
    if (outcome.failure !== undefined) throw new Error(`${id}: ${outcome.failure}`);
    const measured = counter.read(counting.output) / outcome.totalCalls;
    if (Number.isNaN(measured)) throw new Error(`${counter.name} gave no number:\n${counting.output}`);
    results.push({ load: id, unit: 'system calls/record', measured, limit });
  }
  return results;
}

async function compareWithPipe(stage, server, relay) {
  const pipe = await ownRelays['node pipe()'](stage, server);
  const results = [];
  for (const id of Object.keys(limits)) {
    const own = await runLoad(stage, server, relay, loads[id], seconds);
    const floor = await runLoad(stage, server, pipe, loads[id], seconds);
    const failure = own.failure ?? floor.failure;
    if (failure !== undefined) throw new Error(`${id}: ${failure}`);
    results.push({ load: id, unit: 'CPU / pipe()', measured: own.cpu / floor.cpu, limit: mostOfPipe });
  }
  return results;
}

/** The table as Markdown. */
export function formatGate({ how, held, results }) {
  const rows = results.map(({ load, unit, measured, limit }) => [
    loads[load].title,
    unit,
    measured.toFixed(1),
    String(limit),
    measured <= limit ? 'held' : 'EXCEEDED',
  ]);
  const table = formatTable(['load', `counted with ${how}`, 'measured', 'limit', ''], rows);
  return `${table}\n${held ? 'The gate held.' : 'The gate did not hold: the data plane does more work for each record than it did.'}\n`;
}
