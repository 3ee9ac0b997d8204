// Runs as files keep them: several, one after another, make one long table.
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';

/** What is known of a run at its beginning. */
export function beginRun(short) {
  return {
    command: ['npm run chaos --', ...process.argv.slice(2)].join(' '),
    startedAt: new Date().toISOString(),
    node: process.versions.node,
    processors: cpus().length,
    short,
    /** Of five minutes, each time the figures were written. */
    loadAverages: [],
    ended: false,
    rounds: 0,
    totals: { operations: 0, failed: 0, bytesChecked: 0, bytesWrong: 0 },
    breaches: [],
    results: [],
  };
}

/**
 * Reads what `writeRuns` wrote, as the runs that come before one that is short or not.
 *
 * Errors: when a file holds something else, or runs that make no table together.
 */
export function readRuns(files, { short, names }) {
  const runs = files.flatMap((file) => {
    const held = parseRuns(file);
    for (const run of held) {
      if (run.short !== short) throw new Error(`${file}: short and long runs make no table together`);
      const unknown = run.results.find(({ fault }) => !names.includes(fault));
      if (unknown !== undefined) throw new Error(`${file}: there is no fault ${unknown.fault}`);
    }
    return held;
  });
  const begun = runs.map(({ startedAt }) => startedAt);
  const twice = begun.find((startedAt, at) => begun.indexOf(startedAt) !== at);
  if (twice !== undefined) throw new Error(`--before: the run of ${twice} is there twice`);
  return runs;
}

/** Writes the file whole, or leaves the old one: whoever ends a run in this moment loses nothing. One line for each result. */
export function writeRuns(file, runs) {
  const incomplete = `${file}.new`;
  writeFileSync(incomplete, `{"runs": [\n${runs.map(renderRun).join(',\n')}\n]}\n`);
  renameSync(incomplete, file);
}

/** All runs as one. */
export function sumRuns(runs) {
  const sum = (field) => runs.reduce((total, { totals }) => total + totals[field], 0);
  return {
    results: runs.flatMap(({ results }) => results),
    breaches: runs.flatMap(({ breaches }, at) =>
      breaches.map((breach) => (runs.length === 1 ? breach : `run ${at + 1}, ${breach}`)),
    ),
    rounds: runs.reduce((total, { rounds }) => total + rounds, 0),
    operations: sum('operations'),
    bytesChecked: sum('bytesChecked'),
  };
}

function parseRuns(file) {
  let runs;
  try {
    ({ runs } = JSON.parse(readFileSync(file, 'utf8')));
  } catch (error) {
    throw new Error(`--before ${file}: ${error.message}`, { cause: error });
  }
  if (!Array.isArray(runs) || !runs.every(({ results }) => Array.isArray(results)))
    throw new Error(`--before ${file}: this is not what --json writes`);
  return runs;
}

function renderRun({ results, ...facts }) {
  const lines = Object.entries(facts).map(([name, value]) => `"${name}": ${JSON.stringify(value)}`);
  const rows = results.map((result) => JSON.stringify(result)).join(',\n');
  return `{${lines.join(',\n')},\n"results": [\n${rows}\n]}`;
}
