import type { CommandModule } from 'yargs';
import { AgentError } from '../core/errors.ts';
import { exitCodeOf } from '../core/exit-codes.ts';
import { type FaultCode, faults, type Layer, layers, retries } from '../core/faults.ts';
import { findNearest } from '../core/nearest.ts';
import type { Caller } from '../helper/caller.ts';
import { columnsFor, createPaint, wrapText } from './paragraph.ts';

interface Arguments {
  code: string | undefined;
  json: boolean;
}

const codes = Object.keys(faults) as FaultCode[];

/** `efs-agent explain`: what an error code means, what is behind it and what to do; without a code, all of them. */
export function createExplainCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'explain [code]',
    builder: (yargs) =>
      yargs
        .positional('code', {
          type: 'string',
          describe: 'the code in brackets at the end of an error; without one: all of them',
        })
        .option('json', {
          type: 'boolean',
          default: false,
          describe: 'for programs; the field names are stable',
        }),
    handler: ({ code: written, json }) => {
      const code = written === undefined ? null : findCode(written);
      if (json) {
        const facts = code === null ? codes.map(factsOf) : factsOf(code);
        caller.writeOut(`${JSON.stringify(facts, null, 2)}\n`);
      } else caller.writeOut(code === null ? renderList(caller) : renderFault(code, caller));
    },
  };
}

/** A code as it is, or in the brackets it was copied with. Errors: `usage` with the code that was perhaps meant. */
function findCode(written: string): FaultCode {
  const code = written.trim().replace(/^\[(.*)\]$/, '$1');
  if (Object.hasOwn(faults, code)) return code as FaultCode;
  const nearest = findNearest(code.toLowerCase(), codes);
  throw new AgentError('usage', `there is no error code ${written}`, {
    hint:
      nearest === null
        ? 'See all codes with: efs-agent explain.'
        : `Did you mean ${nearest}? See all codes with: efs-agent explain.`,
  });
}

function factsOf(code: FaultCode) {
  const { layer, retry, text, cause, hint } = faults[code];
  return {
    code,
    layer,
    text,
    cause,
    nextStep: hint,
    exitStatus: exitCodeOf(new AgentError(code, text)),
    mayPass: retry === 'backoff',
  };
}

function renderFault(code: FaultCode, caller: Caller): string {
  const { layer, text, cause, nextStep, exitStatus } = factsOf(code);
  const rows = [
    ['meaning', text],
    ['likely cause', cause],
    ['next step', nextStep],
    ['layer', `${layerName(layer)}: ${layers[layer]}`],
    ['exit status', String(exitStatus)],
    ['again', retries[faults[code].retry]],
  ] as const;
  const columns = columnsFor(caller);
  const lines = rows.flatMap(([name, value]) =>
    wrapText(value, columns, `  ${name.padEnd(14)}`, ' '.repeat(16)),
  );
  return `${[createPaint(caller)('bold', code), ...lines].join('\n')}\n`;
}

function renderList(caller: Caller): string {
  const width = Math.max(...codes.map((code) => code.length));
  const paint = createPaint(caller);
  const columns = columnsFor(caller);
  const sections = (Object.keys(layers) as Layer[]).map((layer) => {
    const lines = codes
      .filter((code) => faults[code].layer === layer)
      .flatMap((code) =>
        wrapText(faults[code].text, columns, `  ${code.padEnd(width)}  `, ' '.repeat(width + 4)),
      );
    return [paint('bold', `${layerName(layer)}: ${layers[layer]}`), ...lines].join('\n');
  });
  return `${sections.join('\n\n')}\n`;
}

function layerName(layer: Layer): string {
  return layer === 'local' ? layer : layer.toUpperCase();
}
