// Writes docs/errors.md from the fault table; `--print` prints the page instead.
import { loadModule, writePage } from './page.mjs';

const { faults, layers, retries } = await loadModule('src/core/faults.ts');

writePage('docs/errors.md', [
  '# Errors',
  '',
  'Every failure that efs-agent explains has a code. It stands in brackets at the end of the message, in the log and',
  'in `efs-agent status --json`, and it does not change between versions; the words around it may. `efs-agent explain <code>` shows the same at the machine.',
  '',
  '- *Layer*: where to look. ' +
    Object.entries(layers)
      .map(([layer, text]) => `\`${layer}\`: ${text}`)
      .join('; ') +
    '.',
  '- *Exit*: the status of `mount.efs` and `efs-agent`, as mount(8) defines it: 1 wrong invocation or permissions,',
  '  2 system error, 4 defect of ours, 8 interrupted, 32 mount failure.',
  '- *Again*: whether the same request may succeed later. The agent keeps trying for a mount that exists; a new mount',
  '  that fails is undone and reported.',
  '',
  'This page is made from `src/core/faults.ts` by `npm run docs`; a test compares the two.',
  '',
  ...Object.entries(layers).flatMap(([layer, text]) => [
    `## ${layer}: ${text}`,
    '',
    ...Object.entries(faults)
      .filter(([, fault]) => fault.layer === layer)
      .flatMap(([code, fault]) => [
        `### \`${code}\``,
        '',
        `${escapeHtml(fault.text)} Exit ${fault.exit}. Again: ${retries[fault.retry]}.`,
        '',
        `*Likely cause*: ${escapeHtml(fault.cause)}`,
        '',
        `*Next step*: ${escapeHtml(fault.hint)}`,
        '',
      ]),
  ]),
]);

/** `<directory>` would be taken for an element and not shown. */
function escapeHtml(text) {
  return text.replace(/[<>*_]/g, (character) => `\\${character}`);
}
