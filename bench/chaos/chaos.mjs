// `npm run chaos`: faults come while a kernel NFS client writes and checks. See docs/reliability.md.
import { existsSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ensureVm, VmUnavailable } from '../../scripts/vm/machine.mjs';
import { needFile, needProgram } from '../stage.mjs';
import { enclosedDirectory, onFinish, runEnclosed } from './enclosure.mjs';
import { faults } from './faults.mjs';
import { writeReliability } from './reliability.mjs';
import { describeResult, describeTotals, findBreaches, findRunBreaches, formatResults } from './report.mjs';
import { beginRun, readRuns, sumRuns, writeRuns } from './runs.mjs';

const usage = `usage: npm run chaos [-- OPTIONS]

Mounts three tunnels with the kernel NFS client of a virtual machine, writes and checks through them all the while, and
brings the faults about, each at a random moment. Prints a table; status 1 when a byte was wrong, an operation failed,
a mount hung, a connection to a listener was refused, or (not with --short) a pause was longer than allowed.

  --short          each fault that takes little time once, and for a short time; pauses are not judged
  --rounds N       each fault so many times [20]; 0 with --before: only the table of the earlier runs
  --minutes N      begin no fault after so many minutes
  --faults A,B     only these
  --before FILE    what --json wrote of earlier runs: they and this one make one table; may be given several times
  --json FILE      also write the figures, after each round
  --log FILE       keep the agent's log
  --markdown FILE  also write the table, as docs/reliability.md, after each round

The first SIGINT or SIGTERM ends the run after the fault that is under way, with what there is; the second one at once.

faults: ${faults.map(({ name }) => name).join(', ')}
`;

function readArguments() {
  const { values } = parseArgs({
    options: {
      short: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      minutes: { type: 'string' },
      faults: { type: 'string' },
      before: { type: 'string', multiple: true, default: [] },
      json: { type: 'string' },
      log: { type: 'string' },
      markdown: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  const names = values.faults?.split(',');
  const unknown = names?.find((name) => !faults.some((fault) => fault.name === name));
  if (unknown !== undefined) throw new Error(`--faults: there is no ${unknown}`);
  for (const option of ['rounds', 'minutes']) {
    const isTableOnly = option === 'rounds' && values.before.length > 0 && values.rounds === '0';
    if (values[option] !== undefined && !(Number(values[option]) > 0) && !isTableOnly)
      throw new Error(`--${option} ${values[option]}: write a number above 0`);
  }
  return {
    ...values,
    earlier: readRuns(values.before, { short: values.short, names: faults.map(({ name }) => name) }),
    rounds: Number(values.rounds ?? (values.short ? 1 : 20)),
    minutes: values.minutes === undefined ? null : Number(values.minutes),
    chosen: faults.filter(({ name, short }) =>
      names === undefined ? !values.short || short !== false : names.includes(name),
    ),
  };
}

/** Everything that needs the network or the whole machine; then the run itself, apart from it. */
async function prepareAndRun() {
  needProgram('cc', 'gcc', say);
  needFile('/usr/include/stdio.h', 'libc6-dev', 'for the compiler', say);
  needProgram('ganesha.nfsd', 'nfs-ganesha-vfs', say, ['nfs-ganesha.service']);
  needProgram('ip', 'iproute2', say);
  await ensureVm(say);
  if (!existsSync('dist/agent.cjs')) throw new Error('dist is missing: run "npm run build" first');
  return runEnclosed(process.argv.slice(1));
}

async function runInside(options) {
  const { runChaos } = await import('./run.mjs');
  const directory = enclosedDirectory();
  const endMs =
    options.minutes === null ? Number.POSITIVE_INFINITY : performance.now() + options.minutes * 60_000;
  let finishing = false;
  onFinish(() => {
    finishing = true;
    say('no further fault begins');
  });
  const run = beginRun(options.short);
  const runs = [...options.earlier, run];
  const breaches = [];
  const onResult = (result) => {
    say(describeResult(result));
    const fault = options.chosen.find(({ name }) => name === result.fault);
    const found = findBreaches(result, fault, !options.short);
    for (const breach of found) say(`BROKEN, ${result.fault}: ${breach}`);
    breaches.push(...found.map((breach) => `${result.fault}, round ${result.round}: ${breach}`));
  };
  const keep = (outcome) => {
    const { ended, rounds, results, totals } = outcome;
    Object.assign(run, {
      ended,
      rounds,
      results,
      totals,
      breaches: [...breaches, ...findRunBreaches(outcome)],
    });
    run.loadAverages.push(Number(loadavg()[1].toFixed(2)));
    writeFiles(options, runs);
  };
  keep(
    await runChaos({
      directory,
      logFile: options.log ?? join(directory, 'agent.log'),
      faults: options.chosen,
      rounds: options.rounds,
      short: options.short,
      isOver: () => finishing || performance.now() > endMs,
      say,
      onResult,
      onRound: keep,
    }),
  );
  return printTable(runs);
}

function writeFiles({ json, markdown }, runs) {
  if (json !== undefined) writeRuns(json, runs);
  if (markdown === undefined) return;
  const sum = sumRuns(runs);
  writeReliability(markdown, { runs, table: formatResults(faults, sum.results), sum });
}

/** Gives the exit status. */
function printTable(runs) {
  const sum = sumRuns(runs);
  process.stdout.write(`${formatResults(faults, sum.results)}\n`);
  for (const breach of sum.breaches) process.stdout.write(`broken: ${breach}\n`);
  const verdict = sum.breaches.length === 0 ? 'everything held' : `${sum.breaches.length} breaches`;
  process.stdout.write(`${describeTotals(runs, sum)}: ${verdict}\n`);
  return sum.breaches.length === 0 ? 0 : 1;
}

function say(line) {
  process.stderr.write(`chaos: ${line}\n`);
}

async function main() {
  const options = readArguments();
  if (options.help) {
    process.stdout.write(usage);
    return 0;
  }
  if (options.rounds === 0) {
    writeFiles(options, options.earlier);
    return printTable(options.earlier);
  }
  if (enclosedDirectory() !== null) return runInside(options);
  try {
    return await prepareAndRun();
  } catch (error) {
    if (!(error instanceof VmUnavailable)) throw error;
    say(`SKIPPED: there can be no virtual machine here: ${error.message}`);
    return options.short ? 0 : 1;
  }
}

try {
  process.exitCode = await main();
} catch (thrown) {
  say(thrown.message);
  process.exitCode = 1;
}
if (enclosedDirectory() !== null) process.exit();
