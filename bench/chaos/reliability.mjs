// docs/reliability.md: how to read the table, and the table of the runs that have just ended.
import { readFileSync, writeFileSync } from 'node:fs';
import { describeTotals } from './report.mjs';

const begin = '<!-- the table of the last run; written by npm run chaos -- --markdown -->';

/** Replaces what stands below the mark; what stands above it is written by hand. */
export function writeReliability(file, { runs, table, sum }) {
  const above = readFileSync(file, 'utf8').split(begin)[0];
  const broken =
    sum.breaches.length === 0
      ? 'Everything held.'
      : `Not everything held:\n\n${sum.breaches.map((one) => `- ${one}`).join('\n')}`;
  writeFileSync(
    file,
    `${above}${begin}

${runs.map(describeRun).join('\n')}

${table}

${describeTotals(runs, sum)}. ${broken}
`,
  );
}

function describeRun({ command, startedAt, node, processors, loadAverages, ended, rounds, results }) {
  const from = Math.min(...loadAverages).toFixed(1);
  const to = Math.max(...loadAverages).toFixed(1);
  const load = from === to ? from : `${from} to ${to}`;
  const extent = `${rounds} whole ${rounds === 1 ? 'round' : 'rounds'}, ${results.length} faults`;
  return `- \`${command}\` on ${startedAt.slice(0, 16).replace('T', ' ')} UTC, Node ${node}, ${processors} processors, load average ${load}: ${extent}${ended ? '' : '; it was cut off, so that what the end of a run shows is not known'}.`;
}
