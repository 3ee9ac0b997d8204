// npm run fuzz -- [--seconds=N | --runs=N] [--seed=N] [--target=NAME] [--keep]: coverage-guided fuzzing of everything that reads
// what others wrote. Two targets run side by side. Ends with 1 on a crash, a hang, or memory without bound.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { Worker } from 'node:worker_threads';
import { build } from 'esbuild';

const { values } = parseArgs({
  options: {
    seconds: { type: 'string' },
    runs: { type: 'string' },
    seed: { type: 'string' },
    target: { type: 'string' },
    keep: { type: 'boolean', default: false },
  },
});
const corpusFolder = resolve('test/fuzz/corpus');
const seed = Number(values.seed ?? 1);
const hangMs = 20_000;
const heapMiB = 256;
const sideBySide = 2;

const folder = mkdtempSync(join(tmpdir(), 'efs-agent-fuzz-'));
try {
  await build({
    entryPoints: ['test/fuzz/targets.ts', 'test/fuzz/services.ts'],
    outdir: folder,
    outExtension: { '.js': '.cjs' },
    bundle: true,
    platform: 'node',
    format: 'cjs',
  });
  const bundles = ['targets.cjs', 'services.cjs'].map((file) => join(folder, file));
  const bundleOf = (name) => bundles.find((bundle) => name in createRequire(bundle)(bundle).targets);
  const all = readdirSync(corpusFolder).sort();
  const names = values.target === undefined ? all : [values.target];
  const perTarget = {
    runs:
      values.runs === undefined ? Number.POSITIVE_INFINITY : Math.ceil(Number(values.runs) / names.length),
    ms:
      values.seconds === undefined
        ? Number.POSITIVE_INFINITY
        : (Number(values.seconds) * 1_000 * sideBySide) / names.length,
  };
  if (!Number.isFinite(perTarget.runs) && !Number.isFinite(perTarget.ms)) perTarget.ms = 10_000;
  process.stdout.write(`seed ${seed}\n`);
  const waiting = [...names];
  const results = [];
  const lane = async () => {
    for (let name = waiting.shift(); name !== undefined; name = waiting.shift())
      results.push(await fuzz(name, bundleOf(name), perTarget));
  };
  await Promise.all(Array.from({ length: sideBySide }, lane));
  const total = results.reduce((sum, { done }) => sum + done, 0);
  const failed = results.filter(({ failure }) => failure !== null);
  process.stdout.write(
    `${total} executions over ${results.length} targets, ${failed.length} failed; highest memory ${(process.resourceUsage().maxRSS / 1_024).toFixed(0)} MiB\n`,
  );
  if (failed.length > 0 || total === 0) process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}

/** Runs one target; what goes wrong is printed with its input, in base64. */
function fuzz(name, bundle, { runs, ms }) {
  const seeds = readdirSync(join(corpusFolder, name))
    .sort()
    .map((file) => readFileSync(join(corpusFolder, name, file)));
  const watch = new SharedArrayBuffer(8 + 65_536);
  const progress = new Int32Array(watch, 0, 2);
  const workerData = { bundle, name, seed, runs, endMs: Date.now() + ms, seeds, watch };
  const worker = new Worker(new URL('runner.mjs', import.meta.url), {
    workerData,
    resourceLimits: { maxOldGenerationSizeMb: heapMiB },
  });
  return new Promise((settle) => {
    let last = -1;
    const watching = setInterval(() => {
      if (progress[0] === last) end('hang');
      last = progress[0];
    }, hangMs);
    const end = (failure, { done = progress[0], blocks = 0, blocksOfSeeds = 0, kept = [] } = {}) => {
      clearInterval(watching);
      const input = Buffer.from(watch, 8, progress[1]).toString('base64');
      process.stdout.write(
        `${failure === null ? 'ok  ' : 'FAIL'} ${name.padEnd(12)} ${String(done).padStart(9)} executions, ${blocks} blocks reached, ${blocks - blocksOfSeeds} of them new${failure === null ? '' : `\n     ${failure}\n     input: ${input}`}\n`,
      );
      if (values.keep) keep(name, kept);
      settle({ name, done, failure });
      void worker.terminate();
    };
    worker.once('message', (result) => end(null, result));
    worker.once('error', (error) => end(error.stack ?? String(error)));
  });
}

function keep(name, kept) {
  mkdirSync(join(corpusFolder, name), { recursive: true });
  const known = readdirSync(join(corpusFolder, name)).length;
  for (const [index, bytes] of kept.entries())
    writeFileSync(join(corpusFolder, name, `found-${String(known + index).padStart(3, '0')}`), bytes);
}
