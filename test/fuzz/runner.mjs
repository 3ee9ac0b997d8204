// One target, in a thread of its own: inputs that reach code which none before had reached are kept and changed further.
import { Session } from 'node:inspector';
import { createRequire } from 'node:module';
import { parentPort, workerData } from 'node:worker_threads';
import { createRandom, mutate } from './mutate.mjs';

const { bundle, name, seed, runs, endMs, seeds, watch } = workerData;
const target = createRequire(bundle)(bundle).targets[name];
const progress = new Int32Array(watch, 0, 2);
const current = Buffer.from(watch, 8);
const random = createRandom(seed);
Error.stackTraceLimit = 0;
const corpus = seeds.map((bytes) => Buffer.from(bytes));
const batches = { least: 500, most: 32_000 };
/** Watched code runs several times slower: where nothing new is found, so many batches run unwatched for each that is watched. */
const mostUnwatched = 15;
let seen = new Set();

const session = new Session();
session.connect();
const ask = (method, parameters) => {
  let answer;
  session.post(method, parameters, (error, result) => {
    if (error) throw error;
    answer = result;
  });
  return answer;
};
ask('Profiler.enable');
const startWatching = () => ask('Profiler.startPreciseCoverage', { callCount: true, detailed: true });
startWatching();

/** Whether code ran since the last look that had never run before. */
function reachesMore() {
  let more = false;
  for (const { url, functions } of ask('Profiler.takePreciseCoverage').result) {
    if (!url.endsWith(bundle)) continue;
    for (const { ranges } of functions)
      for (const { startOffset, endOffset, count } of ranges) {
        const block = startOffset * 2_000_003 + endOffset;
        if (count === 0 || seen.has(block)) continue;
        seen.add(block);
        more = true;
      }
  }
  return more;
}

/** Gives a promise if the target does: most do not, and waiting would take most of their time. */
function run(bytes) {
  const length = Math.min(bytes.length, current.length);
  progress[1] = length;
  bytes.copy(current, 0, 0, length);
  progress[0] += 1;
  try {
    const pending = target(bytes);
    return pending === undefined ? undefined : pending.catch(() => runAgain(bytes));
  } catch {
    return runAgain(bytes);
  }
}

/** Once more, to see where: most errors are refusals, and their stacks would take most of the time. */
async function runAgain(bytes) {
  Error.stackTraceLimit = 20;
  await target(bytes);
  throw new Error('it failed once, and not again');
}

let done = 0;

async function runAll(list) {
  for (const bytes of list) {
    const pending = run(bytes);
    if (pending !== undefined) await pending;
  }
  done += list.length;
}

/** Keeps those inputs of a list that reach what was not reached `before`; the list does, as a whole. */
async function isolate(list, before) {
  if (list.length === 1) {
    corpus.push(list[0]);
    return;
  }
  const middle = list.length >> 1;
  let known = before;
  for (const half of [list.slice(0, middle), list.slice(middle)]) {
    seen = new Set(known);
    await runAll(half);
    if (reachesMore()) await isolate(half, known);
    known = new Set([...known, ...seen]);
  }
  seen = known;
}

await runAll(corpus);
done = 0;
reachesMore();
const blocksOfSeeds = seen.size;
let size = batches.least;
let unwatched = 0;
const makeBatch = () =>
  Array.from({ length: Math.min(size, runs - done) }, () =>
    mutate(corpus[random(corpus.length)], corpus[random(corpus.length)], random),
  );
const isOver = () => done >= runs || Date.now() >= endMs;
while (!isOver()) {
  const before = new Set(seen);
  const batch = makeBatch();
  const startedMs = Date.now();
  await runAll(batch);
  if (reachesMore()) {
    size = batches.least;
    unwatched = 0;
    await isolate(batch, before);
    continue;
  }
  if (Date.now() - startedMs < 1_000) size = Math.min(size * 2, batches.most);
  unwatched = Math.min(unwatched * 2 + 1, mostUnwatched);
  ask('Profiler.stopPreciseCoverage');
  for (let count = 0; count < unwatched && !isOver(); count += 1) await runAll(makeBatch());
  startWatching();
}
parentPort.postMessage({ done, blocks: seen.size, blocksOfSeeds, kept: corpus.slice(seeds.length) });
