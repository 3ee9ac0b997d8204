// A run: the parts are started, the faults come one after another, each followed until every mount works again.
import { execFileSync, spawn } from 'node:child_process';
import { cpSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { openAgent, until } from './agent.mjs';
import { openClock } from './clock.mjs';
import { addresses, layCable, openPrivateEtc } from './enclosure.mjs';
import { heldBackMs, openGuest } from './guest.mjs';
import { startProbe } from './probe.mjs';
import { openRecord } from './record.mjs';
import { dnsName, fileSystemId, mounts, openService } from './service.mjs';

const home = resolve(import.meta.dirname, '../..');
const threadCount = 3 * mounts.length;
/** A mount that does not move for so long after a fault has ended hangs. */
const hangMs = 240_000;
/** The kernel connects to one server no more often than every 3 s; what comes sooner measures that. */
const kernelWaitMs = 4_000;
/** What can be done about a mount that hangs: nothing. The run ends there. */
class Hang extends Error {}

/** What is ours of pauses, longest first: less what the kernel adds by itself to so many of them. */
const withoutHeldBack = (pausesMs, count) =>
  pausesMs.map((ms, index) => (index < count && ms >= heldBackMs ? ms - heldBackMs : ms));

const wait = (ms) => new Promise((wake) => setTimeout(wake, ms));

/**
 * Runs the faults, in another order each round, and gives the figures.
 *
 * No further fault begins once `isOver` says so. `onRound` hears the figures so far at the end of each round.
 * Errors: when a part cannot be started.
 */
export async function runChaos({
  directory,
  logFile,
  faults,
  rounds,
  short,
  isOver,
  say,
  onResult,
  onRound,
}) {
  const parts = await openParts(directory, logFile, say);
  const { agent, guest, record } = parts;
  const before = await guest.mountIds();
  const writers = mounts.map(({ name }) => guest.startVerify(name, (line) => record.onLine(name, line)));
  const probe = startProbe((await agent.status()).mounts.map(({ port }) => port));
  const moved = async () => {
    const sinceMs = performance.now();
    const fits = () => record.hasMovedSince(sinceMs, threadCount);
    await until(fits, 'I/O of every mount', hangMs).catch((error) => {
      throw new Hang(`${record.waitingSince(sinceMs).join(', ')} did not move within ${hangMs / 1000} s`, {
        cause: error,
      });
    });
  };
  await moved();
  say('every mount works');

  const results = [];
  const world = { ...parts, moved };
  let wholeRounds = 0;
  for (let round = 1; round <= rounds; round++) {
    for (const fault of shuffle(faults)) {
      if (isOver()) return await finish();
      const result = await meet(fault, round);
      results.push(result);
      onResult(result);
      if (result.hung) return await finish();
    }
    wholeRounds = round;
    onRound(await lookBack({ ended: false, left: null }));
  }
  return await finish();

  async function meet(fault, round) {
    const lengthMs = fault.seconds[short ? 1 : 0] * 1000;
    await wait(short ? 300 : kernelWaitMs + Math.random() * 3000);
    await fault.prepare?.(world);
    await moved();
    const from = record.totals();
    const complained = record.complaints.length;
    probe.take();
    await guest.takeHeldBack();
    const beginMs = performance.now();
    let notes = {};
    let failure = null;
    let hung = false;
    try {
      notes = (await fault.run(world, lengthMs)) ?? {};
      await moved();
      await agent.settle();
    } catch (error) {
      failure = error.message;
      hung = error instanceof Hang;
    }
    const heldBack = await guest.takeHeldBack();
    const pausesMs = record.pausesSince(beginMs);
    const longestMs = Math.round(pausesMs[0] ?? 0);
    const onTopMs = pausesMs.map((ms) => (fault.blocks ? ms - lengthMs : ms));
    const to = record.totals();
    const probed = probe.take();
    if (!hung) await fault.restore?.(world);
    return {
      fault: fault.name,
      round,
      lengthMs,
      longestMs,
      heldBack,
      addedMs: Math.round(Math.max(0, ...withoutHeldBack(onTopMs, heldBack))),
      failure,
      hung,
      operations: to.operations - from.operations,
      bytesChecked: to.bytesChecked - from.bytesChecked,
      bytesWrong: to.bytesWrong - from.bytesWrong,
      failed: to.failed - from.failed,
      ...probed,
      complaints: record.complaints.slice(complained),
      notes,
    };
  }

  async function lookBack(end) {
    const remounted = JSON.stringify(await guest.mountIds()) !== JSON.stringify(before);
    return {
      rounds: wholeRounds,
      results,
      totals: record.totals(),
      remounted,
      complaints: record.complaints,
      ...end,
    };
  }

  async function finish() {
    const hangs = results.at(-1)?.hung === true;
    const outcome = await lookBack({ ended: true, left: null });
    await probe.stop();
    if (!hangs) {
      for (const writer of writers) await writer.stop();
      await guest.unmountAll();
      const isEmpty = async () => (await agent.status()).mounts.length === 0;
      outcome.left = await until(isEmpty, 'no mount is left').then(
        () => null,
        (error) => error.message,
      );
    }
    await guest.close();
    return { ...outcome, totals: record.totals() };
  }
}

/** Everything that a fault may touch. The machine comes first: its clock stays as it is. */
async function openParts(directory, logFile, say) {
  const start = (command, args) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    return { child, pid: child.pid, output: '' };
  };
  const builds = ['dist', 'other'].map((name) => join(directory, name));
  cpSync(join(home, 'dist'), builds[0], { recursive: true });
  execFileSync(process.execPath, ['scripts/build.mjs', '--version', '0.0.0-other', '--out', builds[1]], {
    cwd: home,
  });
  const verify = join(directory, 'verify');
  execFileSync('cc', ['-O2', '-static', '-pthread', '-o', verify, join(import.meta.dirname, 'verify.c')]);

  const guest = await openGuest({ directory, verify, say });
  openPrivateEtc(directory);
  const cable = await layCable();
  cable.setName(dnsName, addresses.targets[0]);
  const clock = openClock(directory);
  const service = await openService({ directory, dist: builds[0], cable, start });
  const agent = await openAgent({ directory, logFile, builds, caPem: service.caPem, standIn: guest.standIn });
  for (const { name, options } of mounts)
    await agent.mount(`${fileSystemId}:/`, guest.mountPoint(name), options);
  return { guest, cable, clock, service, agent, record: openRecord() };
}

function shuffle(values) {
  const shuffled = [...values];
  for (let i = shuffled.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [shuffled[i], shuffled[j]] = [shuffled[j], shuffled[i]];
  }
  return shuffled;
}
