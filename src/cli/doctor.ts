import type { CommandModule } from 'yargs';
import { layers } from '../core/faults.ts';
import { parseMountSpec, parseOptions } from '../core/mount-spec.ts';
import { type Diagnosis, diagnose, type Result } from '../doctor/diagnose.ts';
import { systemPlaces } from '../doctor/places.ts';
import { createSubject } from '../doctor/subject.ts';
import type { Caller } from '../helper/caller.ts';
import { checkRoot } from '../helper/program.ts';
import { jsonOption, mountOptions } from './options.ts';
import { type Colour, columnsFor, createPaint, wrapText } from './paragraph.ts';

interface Arguments {
  spec: string | undefined;
  o: string[];
  fstab: boolean;
  json: boolean;
}

/** As monitoring plugins have it: 0 fine, 1 warning, 2 failure. */
const statuses = { PASS: 0, SKIP: 0, WARN: 1, FAIL: 2 } as const;

/** `efs-agent doctor`: looks into everything a mount depends on, without mounting and without the agent. */
export function createDoctorCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'doctor [spec]',
    builder: (yargs) =>
      yargs
        .positional('spec', {
          type: 'string',
          describe: 'fs-<id>[:/path], or a DNS name of a file system; without one: the machine alone',
        })
        .option('o', mountOptions)
        .option('fstab', {
          type: 'boolean',
          default: false,
          describe: 'look at the lines of /etc/fstab alone',
        })
        .option('json', jsonOption),
    // Its result is the exit status.
    handler: async ({ spec: device, o, fstab, json }) => {
      checkRoot(caller);
      const options = parseOptions(o.join(','));
      const spec = device === undefined ? null : parseMountSpec(device, options);
      const subject = createSubject(caller, systemPlaces, spec);
      const diagnosis = await diagnose(subject, fstab ? ['fstab'] : null).finally(subject.close);
      caller.writeOut(json ? `${JSON.stringify(diagnosis, null, 2)}\n` : renderDiagnosis(diagnosis, caller));
      return statuses[diagnosis.verdict] as never;
    },
  };
}

const colours = { PASS: 'green', WARN: 'yellow', FAIL: 'red', SKIP: 'dim' } as const satisfies Record<
  Result['verdict'],
  Colour
>;

/** A line for each finding, its fix below it, and where to begin. */
export function renderDiagnosis(
  { results, layer }: Diagnosis,
  caller: Pick<Caller, 'outColumns' | 'environment'>,
): string {
  const paint = createPaint(caller);
  const columns = columnsFor(caller);
  const width = Math.max(...results.map(({ check }) => check.length));
  const indent = ' '.repeat(4 + 2 + width + 2);
  const lines = results.flatMap(({ check, verdict, evidence, fix, code }) => {
    const text = code === null ? evidence : `${evidence} [${code}]`;
    const [first = '', ...more] = wrapText(
      clean(text),
      columns,
      `${verdict}  ${check.padEnd(width)}  `,
      indent,
    );
    const advice = fix === null ? [] : wrapText(clean(fix), columns, `${indent}-> `, `${indent}   `);
    return [paint(colours[verdict], verdict) + first.slice(verdict.length), ...more, ...advice];
  });
  const count = (verdict: Result['verdict']) => results.filter((result) => result.verdict === verdict).length;
  const summary = `${count('FAIL')} failed, ${count('WARN')} warned, ${count('PASS')} passed, ${count('SKIP')} skipped`;
  const begin =
    layer === null
      ? ''
      : `: begin with ${layer === 'local' ? layers.local : `${layer.toUpperCase()}, ${layers[layer]}`}`;
  return `${[...lines, '', ...wrapText(summary + begin, columns, '')].join('\n')}\n`;
}

/** Evidence may quote a file or a peer; a terminal shall not obey it. */
function clean(text: string): string {
  return text.replace(/\p{C}/gu, '?');
}
