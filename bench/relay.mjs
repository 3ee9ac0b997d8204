// `bench relay`: every relay under every load, in turns, several rounds, medians.
import { cpus } from 'node:os';
import { forgetPeaks, sumPeakRssKib } from './processes.mjs';
import { ownRelays, parseRelay } from './relays.mjs';
import { openStage, run, startServer, Unavailable } from './stage.mjs';
import { formatTable, median } from './tables.mjs';

const kib = 2 ** 10;
const mib = 2 ** 20;
const usualWarmMs = 700;
/** What a READ's or WRITE's own words take beside the data. */
const words = 160;

/**
 * The loads. `kinds`: calls always outstanding on each connection, call and reply sizes in bytes. `unit` says what
 * counts: bytes carried both ways, or calls. `watched` is the kind whose latency is shown.
 */
export const loads = {
  'reads-1m': bytes('1 MiB reads, 16 outstanding', 1, [[16, words, mib + words]]),
  'writes-1m': bytes('1 MiB writes, 16 outstanding', 1, [[16, mib + words, words]]),
  'reads-64k': bytes('64 KiB reads, 64 outstanding', 1, [[64, words, 64 * kib + words]]),
  'calls-64': calls('200-byte calls, 64 outstanding', 1, [[64, 200, 200]]),
  'calls-1': calls('200-byte calls, one at a time', 1, [[1, 200, 200]]),
  'connections-16': bytes('16 connections, 64 KiB reads, 4 outstanding on each', 16, [
    [4, words, 64 * kib + words],
  ]),
  mixed: bytes(
    'mixed: 48 200-byte calls, 8 1 MiB reads, 8 1 MiB writes outstanding; latency of the calls',
    1,
    [
      [48, 200, 200],
      [8, words, mib + words],
      [8, mib + words, words],
    ],
  ),
};

/** Ours against stunnel in the same run; docs/decisions/0005. */
const goals = [
  ['reads-1m', 'cpu', 'at most', 0.75],
  ['writes-1m', 'cpu', 'at most', 0.65],
  ['reads-64k', 'cpu', 'at most', 0.75],
  ['calls-64', 'cpu', 'at most', 0.65],
  ['calls-1', 'cpu', 'at most', 1],
  ['calls-1', 'p50Us', 'at most', 1],
  ['reads-1m', 'rate', 'at least', 1.3],
  ['writes-1m', 'rate', 'at least', 1.45],
  ['reads-64k', 'rate', 'at least', 1.25],
  ['calls-64', 'rate', 'at least', 1.5],
  ['connections-16', 'rate', 'at least', 1.5],
];

const figureNames = { cpu: 'CPU', rate: 'throughput', p50Us: 'median latency' };

function bytes(title, connections, kinds) {
  return { title, connections, kinds, unit: 'bytes' };
}

function calls(title, connections, kinds) {
  return { title, connections, kinds, unit: 'calls' };
}

/** Runs it all. Gives the figures; they are what `--json` writes and what text and picture are made from. */
export async function measureRelays({ say, rounds, seconds, added, only, onlyLoads }) {
  const wanted = { ...ownRelays, ...Object.fromEntries(added.map(parseRelay)) };
  mustBeKnown('--only', only, Object.keys(wanted));
  mustBeKnown('--load', onlyLoads, Object.keys(loads));
  const stage = await openStage({ say });
  try {
    const server = await startServer(stage);
    const relays = await openRelays(stage, server, wanted, only);
    const chosen = Object.keys(loads).filter((id) => onlyLoads.length === 0 || onlyLoads.includes(id));
    const runs = [];
    for (const id of chosen) {
      for (let round = 0; round < rounds; round += 1) {
        // Each round begins with another relay, so that none always follows the same neighbour.
        for (const relay of rotate(relays, round)) {
          const outcome = await runLoad(stage, server, relay, loads[id], seconds);
          runs.push({ load: id, round, relay: relay.name, ...outcome });
          if (outcome.failure !== undefined) say(`${relay.name}, ${id}: ${outcome.failure}`);
        }
      }
      say(`${id}: ${rounds} rounds done`);
    }
    return {
      machine: describeMachine(),
      date: new Date().toISOString(),
      rounds,
      seconds,
      relays: relays.map(({ name }) => name),
      results: chosen.map((id) => summarize(id, relays, runs)),
      runs,
    };
  } finally {
    await stage.close();
  }
}

/** One measured window on one relay. */
export async function runLoad(stage, server, relay, load, seconds, warmMs = usualWarmMs) {
  const pids = relay.pids();
  const kinds = load.kinds.map(([count, call, reply]) => `${count}x${call}:${reply}`).join(',');
  const words = [
    relay.port,
    load.connections,
    kinds,
    warmMs,
    Math.round(seconds * 1000),
    server.pid,
    ...pids,
  ];
  forgetPeaks(pids);
  try {
    const facts = JSON.parse(await run(stage.load, ['drive', ...words.map(String)]));
    const { [server.pid]: serverCpuSeconds, ...relayCpu } = facts.cpuSeconds;
    return {
      ...facts,
      cpuSeconds: Object.values(relayCpu).reduce((total, one) => total + one, 0),
      serverCpuSeconds,
      peakRssKib: sumPeakRssKib(pids),
      ...deriveFigures(load, facts, relayCpu),
    };
  } catch (thrown) {
    return { failure: thrown.message.split('\n')[0] };
  }
}

/** `rate`: MiB or calls per second. `cpu`: seconds per GiB, or microseconds per call; null where there is no relay. */
function deriveFigures(load, { seconds, kinds }, relayCpu) {
  const totalBytes = kinds.reduce(
    (total, { calls, callBytes, replyBytes }) => total + calls * (callBytes + replyBytes),
    0,
  );
  const totalCalls = kinds.reduce((total, { calls }) => total + calls, 0);
  const units = load.unit === 'bytes' ? totalBytes / mib : totalCalls;
  const cpuSeconds = Object.values(relayCpu).reduce((total, one) => total + one, 0);
  const perUnit = load.unit === 'bytes' ? kib : 1e6;
  return {
    rate: units / seconds,
    cpu: Object.keys(relayCpu).length === 0 ? null : (cpuSeconds / units) * perUnit,
    p50Us: kinds[0].p50Us,
    p99Us: kinds[0].p99Us,
  };
}

function mustBeKnown(option, names, known) {
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined) throw new Error(`${option} ${unknown}: there are ${known.join(', ')}`);
}

async function openRelays(stage, server, wanted, only) {
  const relays = [];
  for (const [name, open] of Object.entries(wanted)) {
    if (only.length > 0 && !only.includes(name) && Object.hasOwn(ownRelays, name)) continue;
    try {
      relays.push(await open(stage, server));
    } catch (thrown) {
      if (!(thrown instanceof Unavailable)) throw thrown;
      stage.say(`SKIPPED ${name}: ${thrown.message}`);
    }
  }
  return relays;
}

function summarize(id, relays, runs) {
  const { title, unit } = loads[id];
  const ofLoad = runs.filter((one) => one.load === id && one.failure === undefined);
  const figures = {};
  for (const { name } of relays) {
    const own = ofLoad.filter((one) => one.relay === name);
    if (own.length === 0) continue;
    const middle = (key) => (own[0][key] === null ? null : median(own.map((one) => one[key])));
    figures[name] = {
      rate: middle('rate'),
      cpu: middle('cpu'),
      p50Us: middle('p50Us'),
      p99Us: middle('p99Us'),
      peakRssKib: Math.max(...own.map((one) => one.peakRssKib)),
      againstStunnel: compare(own, ofLoad),
    };
  }
  return { id, title, unit, figures };
}

/** Ratio to stunnel in the same round, median over the rounds: what a noisy neighbour changes least. */
function compare(own, ofLoad) {
  const pairs = own
    .map((one) => [one, ofLoad.find((other) => other.relay === 'stunnel' && other.round === one.round)])
    .filter(([, other]) => other !== undefined);
  if (pairs.length === 0) return null;
  const ratio = (key) =>
    own[0][key] === null ? null : median(pairs.map(([one, other]) => one[key] / other[key]));
  return { rate: ratio('rate'), cpu: ratio('cpu'), p50Us: ratio('p50Us') };
}

/** The tables as Markdown, readable as they are. */
export function formatRelays({ machine, date, rounds, seconds, results }) {
  const parts = [`${machine}; ${date}; ${rounds} rounds of ${seconds} s, medians.`];
  for (const { title, unit, figures } of results) {
    const head = [
      'relay',
      unit === 'bytes' ? 'MiB/s' : 'calls/s',
      unit === 'bytes' ? 'CPU s/GiB' : 'CPU µs/call',
      'p50 ms',
      'p99 ms',
      'peak RSS MiB',
      'throughput / stunnel',
      'CPU / stunnel',
    ];
    const rows = Object.entries(figures).map(([name, one]) => [
      name,
      one.rate.toFixed(0),
      one.cpu === null ? '-' : one.cpu.toFixed(unit === 'bytes' ? 2 : 1),
      (one.p50Us / 1000).toFixed(3),
      (one.p99Us / 1000).toFixed(3),
      one.cpu === null ? '-' : (one.peakRssKib / 1024).toFixed(0),
      formatRatio(one.againstStunnel?.rate),
      formatRatio(one.againstStunnel?.cpu),
    ]);
    parts.push(`### ${title}\n\n${formatTable(head, rows)}`);
  }
  const rows = goalRows(results);
  if (rows.length > 0) {
    parts.push(
      `### Goals: efs-agent against stunnel\n\n${formatTable(['load', 'figure', 'goal', 'measured', ''], rows)}`,
    );
  }
  return `${parts.join('\n\n')}\n`;
}

function goalRows(results) {
  return goals.flatMap(([id, figure, sense, goal]) => {
    const measured = results.find((result) => result.id === id)?.figures['efs-agent']?.againstStunnel?.[
      figure
    ];
    if (measured === undefined || measured === null) return [];
    const met = sense === 'at most' ? measured <= goal : measured >= goal;
    return [
      [loads[id].title, figureNames[figure], `${sense} ${goal}`, measured.toFixed(2), met ? 'met' : 'MISSED'],
    ];
  });
}

function formatRatio(ratio) {
  return ratio === null || ratio === undefined ? '-' : `${ratio.toFixed(2)}x`;
}

function rotate(items, by) {
  const start = by % items.length;
  return [...items.slice(start), ...items.slice(0, start)];
}

/** What it ran on, without the machine's name. */
export function describeMachine() {
  const [first] = cpus();
  return `${cpus().length} x ${first?.model ?? process.arch}, Node ${process.versions.node}, OpenSSL ${process.versions.openssl} in Node`;
}
