// `bench gate`: a regression gate that does not depend on how busy the machine is. It counts system calls, which a
// change of the data plane alters and a neighbour hardly does; the limits leave room for what it does.
import { spawnSync } from 'node:child_process';
import { describeMachine, loads, runLoad } from './relay.mjs';
import { openEfsAgent, ownRelays } from './relays.mjs';
import { openStage, startServer, waitFor } from './stage.mjs';
import { formatTable } from './tables.mjs';

/** A window in which too few records pass, because the machine is busy with others, is repeated, longer. */
const windowSeconds = [1.5, 3, 6];
const tracepoint = 'raw_syscalls:sys_enter';

/**
 * System calls of agent and worker for each record (call and reply together), and how many records make a figure: what
 * the processes do besides, each second, must not count. Measured 6.1 to 7.3, 0.2 to 0.3, 37, 42 to 44. A relay that
 * loses its gathering makes 64 more for each MiB; 6 for a small call is none shared with another.
 */
const limits = {
  'calls-1': { most: 11, records: 2_000 },
  'calls-64': { most: 4, records: 4_000 },
  'reads-1m': { most: 80, records: 60 },
  'writes-1m': { most: 90, records: 60 },
};
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
    const held = results.every((result) => judge(result) !== 'EXCEEDED');
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
  for (const [id, { most, records }] of Object.entries(limits)) {
    const { measured, counted } = await countOne(stage, server, relay, counter, id, records);
    const isEnough = counted >= records;
    results.push({ load: id, unit: 'system calls/record', measured, limit: most, isEnough });
  }
  return results;
}

async function countOne(stage, server, relay, counter, id, records) {
  let last;
  for (const seconds of windowSeconds) {
    const counting = counter.start(stage, relay.pids());
    const outcome = await runLoad(stage, server, relay, loads[id], seconds);
    counting.child.kill('SIGINT');
    await waitFor(() => counting.ended, counter.name);
    if (outcome.failure !== undefined) throw new Error(`${id}: ${outcome.failure}`);
    const measured = counter.read(counting.output) / outcome.totalCalls;
    if (Number.isNaN(measured)) throw new Error(`${counter.name} gave no number:\n${counting.output}`);
    last = { measured, counted: outcome.totalCalls };
    if (last.counted >= records) break;
  }
  return last;
}

async function compareWithPipe(stage, server, relay) {
  const pipe = await ownRelays['node pipe()'](stage, server);
  const results = [];
  for (const id of Object.keys(limits)) {
    const own = await runLoad(stage, server, relay, loads[id], windowSeconds[0]);
    const floor = await runLoad(stage, server, pipe, loads[id], windowSeconds[0]);
    const failure = own.failure ?? floor.failure;
    if (failure !== undefined) throw new Error(`${id}: ${failure}`);
    const measured = own.cpu / floor.cpu;
    results.push({ load: id, unit: 'CPU / pipe()', measured, limit: mostOfPipe, isEnough: true });
  }
  return results;
}

function judge({ measured, limit, isEnough }) {
  if (!isEnough) return 'TOO FEW: the machine was too busy to tell';
  return measured <= limit ? 'held' : 'EXCEEDED';
}

/** The table as Markdown. */
export function formatGate({ how, held, results }) {
  const rows = results.map((result) => [
    loads[result.load].title,
    result.unit,
    result.measured.toFixed(1),
    String(result.limit),
    judge(result),
  ]);
  const table = formatTable(['load', `counted with ${how}`, 'measured', 'limit', ''], rows);
  return `${table}\n${held ? 'The gate held.' : 'The gate did not hold: the data plane does more work for each record than it did.'}\n`;
}
