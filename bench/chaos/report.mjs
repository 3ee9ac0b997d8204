// The table of a run, and whether the run held.
import { formatTable, median } from '../tables.mjs';

/** What is wrong with one result; how long something took counts where `strict`. */
export function findBreaches(result, fault, strict) {
  const breaches = [];
  if (result.hung) breaches.push('a mount hangs');
  if (result.failure !== null) breaches.push(result.failure);
  if (result.bytesWrong > 0) breaches.push(`${result.bytesWrong} bytes are wrong`);
  if (result.failed > 0)
    breaches.push(`${result.failed} operations failed: ${result.complaints.slice(0, 5).join('; ')}`);
  // Where refusals are allowed, their length depends on the machine, as that of a pause does.
  const allowedMs = strict
    ? (fault.refusedMs ?? 0)
    : fault.refusedMs === undefined
      ? 0
      : Number.POSITIVE_INFINITY;
  if (result.refused > 0 && result.longestRefusedMs >= allowedMs)
    breaches.push(`connections were refused for ${result.longestRefusedMs} ms`);
  if (strict && fault.limitMs !== undefined && result.addedMs > fault.limitMs)
    breaches.push(`a pause of ${result.addedMs} ms on top, ${fault.limitMs} are allowed`);
  return breaches;
}

/** What is wrong with the run as a whole. */
export function findRunBreaches({ totals, remounted, left, complaints }) {
  return [
    ...(totals.bytesWrong > 0 ? [`${totals.bytesWrong} bytes are wrong`] : []),
    ...(totals.failed > 0 ? [`${totals.failed} operations failed`] : []),
    ...(remounted ? ['a file system was mounted anew'] : []),
    ...(left === null ? [] : [left]),
    ...complaints,
  ];
}

export function describeResult({
  fault,
  round,
  addedMs,
  bytesChecked,
  bytesWrong,
  failed,
  refused,
  longestRefusedMs,
  heldBack,
  notes,
}) {
  const held = heldBack > 0 ? `, ${heldBack} held back for 3 s by the kernel itself` : '';
  const refusals = refused > 0 ? `, refused ${refused} times within ${longestRefusedMs} ms` : '';
  const noted = Object.entries(notes).map(([name, value]) => `, ${name} ${value}`);
  return `round ${round}, ${fault}: added ${addedMs} ms, ${bytesChecked} bytes checked, ${bytesWrong} wrong, ${failed} failed${refusals}${held}${noted.join('')}`;
}

/** How much was done in all. */
export function describeTotals(runs, { rounds, results, operations, bytesChecked }) {
  const extent = `${rounds} whole ${rounds === 1 ? 'round' : 'rounds'} in ${runs.length === 1 ? 'one run' : `${runs.length} runs`}`;
  return `${extent}: ${results.length} faults, ${operations} operations, ${(bytesChecked / 1e9).toFixed(2)} GB checked`;
}

/** One row for each fault. */
export function formatResults(faults, results) {
  const head = [
    'fault',
    'length',
    'times',
    'MB checked',
    'wrong',
    'failed',
    'refused',
    'pause, median',
    'max',
    'added, median',
    'max',
    'allowed',
  ];
  const rows = faults.map((fault) => {
    const own = results.filter((result) => result.fault === fault.name);
    if (own.length === 0) return null;
    const sum = (field) => own.reduce((total, result) => total + result[field], 0);
    const pauses = own.map(({ longestMs }) => longestMs);
    const added = own.map(({ addedMs }) => addedMs);
    return [
      fault.title,
      own[0].lengthMs === 0 ? '' : asSeconds(own[0].lengthMs),
      String(own.length),
      (sum('bytesChecked') / 1e6).toFixed(1),
      String(sum('bytesWrong')),
      String(sum('failed')),
      String(sum('refused')),
      asSeconds(median(pauses)),
      asSeconds(Math.max(...pauses)),
      asSeconds(median(added)),
      asSeconds(Math.max(...added)),
      fault.limitMs === undefined ? '' : asSeconds(fault.limitMs),
    ];
  });
  return formatTable(
    head,
    rows.filter((row) => row !== null),
  );
}

function asSeconds(ms) {
  return `${(ms / 1000).toFixed(1)} s`;
}
