// docs/reliability.md: how to read the table, and the table of the run that has just ended.
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';

const begin = '<!-- the table of the last run; written by npm run chaos -- --markdown -->';

/** Replaces what stands below the mark; what stands above it is written by hand. */
export function writeReliability(file, { table, outcome, breaches }) {
  const above = readFileSync(file, 'utf8').split(begin)[0];
  const { operations, bytesChecked } = outcome.totals;
  const command = ['npm run chaos --', ...process.argv.slice(2)].join(' ');
  const broken =
    breaches.length === 0
      ? 'Everything held.'
      : `Not everything held:\n\n${breaches.map((one) => `- ${one}`).join('\n')}`;
  writeFileSync(
    file,
    `${above}${begin}

\`${command}\` on ${new Date().toISOString().slice(0, 10)}, Node ${process.versions.node}, ${cpus().length} processors, load average ${loadavg()[2].toFixed(1)}:

${table}
${outcome.results.length} faults, ${operations} operations, ${(bytesChecked / 1e9).toFixed(2)} GB checked. ${broken}
`,
  );
}
