import stringWidth from 'string-width';

/** One column of a table. */
export interface Column {
  title: string;
  align: 'left' | 'right';
  /** When the table is too wide its cells are shortened in the middle, down to this; null = never. */
  least: number | null;
}

const gap = '  ';

/**
 * The lines of a table, its titles first: every line fits the width.
 *
 * @param width of the terminal; null = as wide as need be.
 */
export function layOut(
  columns: readonly Column[],
  rows: readonly string[][],
  width: number | null,
): string[] {
  const widths = columns.map(({ title }, at) =>
    rows.reduce((most, row) => Math.max(most, stringWidth(row[at]!)), stringWidth(title)),
  );
  if (width !== null) shrink(columns, widths, width);
  return [columns.map(({ title }) => title), ...rows].map((row) => {
    const cells = row.map((cell, at) => pad(shorten(cell, widths[at]!), widths[at]!, columns[at]!.align));
    const line = cells.join(gap).trimEnd();
    return width === null ? line : cutEnd(line, width);
  });
}

/** A text that fits the width: what is too long loses its middle, as both ends of an id or a path tell it apart. */
export function shorten(text: string, width: number): string {
  if (stringWidth(text) <= width) return text;
  const characters = segment(text);
  const head = take(characters, Math.ceil((width - 1) / 2));
  const tail = take(characters.reverse(), width - 1 - stringWidth(head.join(''))).reverse();
  return `${head.join('')}…${tail.join('')}`;
}

/** As much of a text as fits the width, from its beginning. */
export function cutEnd(text: string, width: number): string {
  if (stringWidth(text) <= width) return text;
  return `${take(segment(text), width - 1).join('')}…`;
}

/** The widest column that may gives way first. */
function shrink(columns: readonly Column[], widths: number[], width: number): void {
  const total = () => widths.reduce((sum, one) => sum + one, gap.length * (widths.length - 1));
  while (total() > width) {
    let widest = -1;
    for (const [at, { least }] of columns.entries()) {
      const may = least !== null && widths[at]! > least;
      if (may && (widest < 0 || widths[at]! > widths[widest]!)) widest = at;
    }
    if (widest < 0) return;
    widths[widest]! -= 1;
  }
}

function pad(text: string, width: number, align: Column['align']): string {
  const blanks = ' '.repeat(Math.max(0, width - stringWidth(text)));
  return align === 'left' ? text + blanks : blanks + text;
}

const segmenter = new Intl.Segmenter();

function segment(text: string): string[] {
  return Array.from(segmenter.segment(text), ({ segment: character }) => character);
}

function take(characters: readonly string[], width: number): string[] {
  const taken: string[] = [];
  let takenWidth = 0;
  for (const character of characters) {
    takenWidth += stringWidth(character);
    if (takenWidth > width) break;
    taken.push(character);
  }
  return taken;
}
