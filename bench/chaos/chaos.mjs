// `npm run chaos`: faults come while a kernel NFS client writes and checks. See docs/reliability.md.
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ensureVm, VmUnavailable } from '../../scripts/vm/machine.mjs';
import { needFile, needProgram } from '../stage.mjs';
import { enclosedDirectory, runEnclosed } from './enclosure.mjs';
import { faults } from './faults.mjs';

const usage = `usage: npm run chaos [-- OPTIONS]

Mounts three tunnels with the kernel NFS client of a virtual machine, writes and checks through them all the while, and
brings the faults about, each at a random moment. Prints a table; status 1 when a byte was wrong, an operation failed,
a mount hung, a connection to a listener was refused, or (not with --short) a pause was longer than allowed.

  --short          each fault that takes little time once, and for a short time; pauses are not judged
  --rounds N       each fault so many times [20]
  --minutes N      begin no fault after so many minutes
  --faults A,B     only these
  --json FILE      also write the figures
  --log FILE       keep the agent's log
  --markdown FILE  also write the table, as docs/reliability.md

faults: ${faults.map(({ name }) => name).join(', ')}
`;

function readArguments() {
  const { values } = parseArgs({
    options: {
      short: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      minutes: { type: 'string' },
      faults: { type: 'string' },
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
    if (values[option] !== undefined && !(Number(values[option]) > 0))
      throw new Error(`--${option} ${values[option]}: write a number above 0`);
  }
  return {
    ...values,
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
  const { describeResult, findBreaches, findRunBreaches, formatResults } = await import('./report.mjs');
  const { writeReliability } = await import('./reliability.mjs');
  const directory = enclosedDirectory();
  const breaches = [];
  const onResult = (result) => {
    say(describeResult(result));
    const fault = options.chosen.find(({ name }) => name === result.fault);
    const found = findBreaches(result, fault, !options.short);
    for (const breach of found) say(`BROKEN, ${result.fault}: ${breach}`);
    breaches.push(...found.map((breach) => `${result.fault}, round ${result.round}: ${breach}`));
  };
  const outcome = await runChaos({
    directory,
    logFile: options.log ?? join(directory, 'agent.log'),
    faults: options.chosen,
    rounds: options.rounds,
    short: options.short,
    endMs: options.minutes === null ? Number.POSITIVE_INFINITY : performance.now() + options.minutes * 60_000,
    say,
    onResult,
  });
  breaches.push(...findRunBreaches(outcome));
  const table = formatResults(options.chosen, outcome.results);
  process.stdout.write(`${table}\n`);
  for (const breach of breaches) process.stdout.write(`broken: ${breach}\n`);
  const { operations, bytesChecked } = outcome.totals;
  process.stdout.write(
    `${outcome.results.length} faults, ${operations} operations, ${bytesChecked} bytes checked: ${breaches.length === 0 ? 'everything held' : `${breaches.length} breaches`}\n`,
  );
  if (options.json !== undefined)
    writeFileSync(options.json, `${JSON.stringify({ ...outcome, breaches }, null, 2)}\n`);
  if (options.markdown !== undefined) writeReliability(options.markdown, { table, outcome, breaches });
  return breaches.length === 0 ? 0 : 1;
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
