// `bench endurance`: whether anything grows under load that does not end: memory and descriptors of agent and worker.
import { countDescriptors, sumPrivateKib, sumPssKib } from './processes.mjs';
import { describeMachine, loads, runLoad } from './relay.mjs';
import { openEfsAgent } from './relays.mjs';
import { openStage, startServer } from './stage.mjs';
import { formatTable, median } from './tables.mjs';

const minuteMs = 60_000;
const sampleMs = 10_000;
/** Code is compiled and idle memory collected by then. */
const settleMs = 15_000;
/** As long as it takes until a process without work has collected its garbage. */
const restMs = 90_000;
const medianOverMinutes = 10;
/** docs/decisions/0005. */
const goals = { moreUnderLoadMib: 64, growthMibPerHour: 1 };

/**
 * What goes through the tunnel at the same time, each in a loop of runs with connections of their own, that end with
 * the run. One mixed connection stays for the whole time.
 */
function lanes(seconds) {
  return [
    { load: loads.mixed, seconds },
    { load: { ...loads.mixed, connections: 3 }, seconds: 20 },
    { load: loads['connections-16'], seconds: 5 },
    { load: loads['calls-64'], seconds: 2 },
  ];
}

export async function measureEndurance({ say, minutes }) {
  const stage = await openStage({ say });
  try {
    const server = await startServer(stage);
    const relay = await openEfsAgent(stage, server);
    await pause(settleMs);
    const before = look(relay);
    const endMs = performance.now() + minutes * minuteMs;
    const traffic = Promise.all(lanes(minutes * 60).map((lane) => repeat(stage, server, relay, lane, endMs)));
    const failed = new AbortController();
    traffic.catch(() => failed.abort());
    const sampled = sampleUntil(relay, endMs, failed.signal, say);
    const [runs, samples] = await Promise.all([traffic, sampled]);
    await pause(Math.min(restMs, minutes * minuteMs));
    const after = look(relay);
    const carried = runs.flat();
    return {
      machine: describeMachine(),
      date: new Date().toISOString(),
      minutes,
      carriedGib: carried.reduce((total, { bytes }) => total + bytes, 0) / 2 ** 30,
      calls: carried.reduce((total, { calls }) => total + calls, 0),
      connections: carried.reduce((total, { connections }) => total + connections, 0),
      before,
      samples,
      after,
    };
  } finally {
    await stage.close();
  }
}

async function repeat(stage, server, relay, { load, seconds }, endMs) {
  const runs = [];
  for (;;) {
    const leftSeconds = (endMs - performance.now()) / 1000;
    if (leftSeconds < 1) return runs;
    const outcome = await runLoad(stage, server, relay, load, Math.min(seconds, leftSeconds), 0);
    if (outcome.failure !== undefined) throw new Error(`${load.title}: ${outcome.failure}`);
    const bytes = outcome.kinds.reduce(
      (total, { calls, callBytes, replyBytes }) => total + calls * (callBytes + replyBytes),
      0,
    );
    runs.push({ bytes, calls: outcome.totalCalls, connections: load.connections });
  }
}

async function sampleUntil(relay, endMs, signal, say) {
  const samples = [];
  const startedMs = performance.now();
  while (performance.now() < endMs && !signal.aborted) {
    await pause(Math.min(sampleMs, endMs - performance.now()));
    const sample = { minute: (performance.now() - startedMs) / minuteMs, ...look(relay) };
    samples.push(sample);
    say(describeSample(sample));
  }
  return samples;
}

function describeSample({ minute, pssMib, privateMib, workerPrivateMib, descriptors, processes }) {
  const memory = `PSS ${pssMib.toFixed(1)}, private ${privateMib.toFixed(1)}, of it worker ${workerPrivateMib.toFixed(1)} MiB`;
  return `minute ${minute.toFixed(1)}: ${memory}; ${descriptors} descriptors, ${processes} processes`;
}

/** At this moment, over agent and worker. */
function look(relay) {
  const pids = relay.pids();
  const [agent] = pids;
  return {
    processes: pids.length,
    pssMib: sumPssKib(pids) / 1024,
    privateMib: sumPrivateKib(pids) / 1024,
    workerPrivateMib: sumPrivateKib(pids.filter((pid) => pid !== agent)) / 1024,
    descriptors: countDescriptors(pids),
  };
}

/** MiB in an hour by least squares over the second half, when everything has found its size. */
function slopePerHour(samples, figure) {
  const half = samples.slice(samples.length >> 1);
  const mean = (values) => values.reduce((total, value) => total + value, 0) / values.length;
  const meanMinute = mean(half.map(({ minute }) => minute));
  const meanFigure = mean(half.map((sample) => sample[figure]));
  const covariance = mean(half.map((sample) => (sample.minute - meanMinute) * (sample[figure] - meanFigure)));
  const variance = mean(half.map(({ minute }) => (minute - meanMinute) ** 2));
  return (covariance / variance) * 60;
}

/** The tables as Markdown. */
export function formatEndurance({
  machine,
  date,
  minutes,
  carriedGib,
  calls,
  connections,
  before,
  samples,
  after,
}) {
  const row = (name, one) => [
    name,
    one.pssMib.toFixed(1),
    one.privateMib.toFixed(1),
    one.workerPrivateMib.toFixed(1),
    one.descriptors.toFixed(0),
  ];
  const over = (some, combine) =>
    Object.fromEntries(
      Object.keys(before).map((figure) => [figure, combine(some.map((one) => one[figure]))]),
    );
  const rows = [row('idle before', before)];
  for (let minute = 0; minute < minutes; minute += medianOverMinutes) {
    const until = Math.min(minute + medianOverMinutes, minutes);
    const some = samples.filter((one) => one.minute > minute && one.minute <= until + 0.1);
    if (some.length > 0) rows.push(row(`minutes ${minute} to ${until}, median`, over(some, median)));
  }
  const peak = over(samples, (values) => Math.max(...values));
  rows.push(row('highest', peak), row('idle after', after));
  const slopes = ['pssMib', 'privateMib', 'workerPrivateMib', 'descriptors'];
  rows.push([
    'growth an hour, second half',
    ...slopes.map((figure) => slopePerHour(samples, figure).toFixed(1)),
  ]);
  const head = ['agent and worker', 'PSS MiB', 'private MiB', 'of it worker', 'descriptors'];
  const more = peak.privateMib - before.privateMib;
  const growth = slopePerHour(samples, 'privateMib');
  const verdict = [
    [
      'more under load, private',
      `at most ${goals.moreUnderLoadMib} MiB`,
      `${more.toFixed(1)} MiB`,
      more <= goals.moreUnderLoadMib,
    ],
    [
      'growth an hour, private',
      `at most ${goals.growthMibPerHour} MiB`,
      `${growth.toFixed(1)} MiB`,
      growth <= goals.growthMibPerHour,
    ],
  ].map(([what, goal, measured, met]) => [what, goal, measured, met ? 'met' : 'MISSED']);
  const carried = `${minutes} minutes; ${carriedGib.toFixed(0)} GiB and ${calls} calls over ${connections} connections`;
  return `${machine}; ${date}; ${carried}.\n\n${formatTable(head, rows)}\n\n${formatTable(['', 'goal', 'measured', ''], verdict)}\n`;
}

function pause(ms) {
  return new Promise((wake) => setTimeout(wake, ms));
}
