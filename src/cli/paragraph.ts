import { styleText } from 'node:util';
import type { Caller } from '../helper/caller.ts';

/** Lines are no longer than this for whoever is not at a terminal, and for no terminal longer than is read with ease. */
const defaultColumns = 80;
const mostColumns = 120;

/** How many columns the answer of a command may have. */
export function columnsFor(caller: Pick<Caller, 'outColumns'>): number {
  return Math.min(mostColumns, Math.max(40, caller.outColumns ?? defaultColumns));
}

export type Colour = 'green' | 'yellow' | 'red' | 'dim' | 'bold';

/**
 * Colours a text for a person at a terminal; for all others it stays as it is.
 *
 * Source: no-color.org; `TERM=dumb` has no colour.
 */
export function createPaint(
  caller: Pick<Caller, 'outColumns' | 'environment'>,
): (colour: Colour, text: string) => string {
  const { environment, outColumns } = caller;
  const coloured = outColumns !== null && !environment['NO_COLOR'] && environment['TERM'] !== 'dumb';
  return (colour, text) => (coloured ? styleText(colour, text, { validateStream: false }) : text);
}

/**
 * Breaks a text into lines at its spaces. A word that is longer than a line has a line of its own: it may be something
 * to copy.
 *
 * @param firstIndent,indent what the first line and all others begin with.
 */
export function wrapText(text: string, columns: number, firstIndent: string, indent = firstIndent): string[] {
  const lines: string[] = [];
  let line = firstIndent;
  let empty = true;
  for (const word of text.split(/\s+/).filter(Boolean)) {
    if (!empty && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = indent;
      empty = true;
    }
    line += empty ? word : ` ${word}`;
    empty = false;
  }
  return [...lines, line.trimEnd()];
}
