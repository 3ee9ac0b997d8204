// The relays' figures as a picture: one row of bars for each load, CPU on the left, throughput on the right.

const rowPx = 20;
const headPx = 40;
const labelPx = 120;
const barPx = 250;
const valuePx = 80;
const columnPx = barPx + valuePx;
const widthPx = labelPx + 2 * columnPx + 30;
const ours = 'efs-agent';
/** Attributes, not a style sheet: not every viewer reads one. */
const looks = {
  title: 'font-weight="bold" font-size="13"',
  head: 'fill="#666666"',
  ours: { text: 'font-weight="bold"', bar: 'fill="#1f6fb2"' },
  others: { text: '', bar: 'fill="#b8c4ce"' },
  beyond: 'fill="none" stroke="#b8c4ce"',
};

/** Draws what `measureRelays` gave. */
export function drawRelays({ machine, date, rounds, seconds, results }) {
  const body = [];
  let y = 70;
  for (const { title, unit, figures } of results) {
    const rows = Object.entries(figures);
    const columns = [
      {
        key: 'cpu',
        head: unit === 'bytes' ? 'CPU seconds per GiB' : 'CPU microseconds per call',
        digits: unit === 'bytes' ? 2 : 1,
      },
      { key: 'rate', head: unit === 'bytes' ? 'MiB/s' : 'calls/s', digits: 0 },
    ];
    body.push(text(10, y, title, looks.title));
    columns.forEach(({ head }, column) => {
      body.push(text(columnX(column), y + 18, head, looks.head));
    });
    rows.forEach(([name, values], row) => {
      const top = y + 24 + row * rowPx;
      const look = name === ours ? looks.ours : looks.others;
      body.push(text(10, top + 14, name, look.text));
      columns.forEach(({ key, digits }, column) => {
        // The ceiling is no rival: it would only make the other bars short.
        const rivals = rows.filter(([other]) => other !== 'no relay');
        const longest = Math.max(...rivals.map(([, one]) => one[key] ?? 0));
        if (values[key] === null) return;
        const isBeyond = values[key] > longest;
        const length = Math.min(1, values[key] / longest) * barPx;
        const x = columnX(column);
        const bar = `x="${x}" y="${top + 3}" width="${length.toFixed(1)}" height="${rowPx - 6}"`;
        const value = values[key].toFixed(digits);
        body.push(`<rect ${bar} ${isBeyond ? looks.beyond : look.bar}/>`);
        body.push(
          isBeyond
            ? text(x + 6, top + 14, `${value}, beyond the scale`, looks.head)
            : text(x + length + 5, top + 14, value, look.text),
        );
      });
    });
    y += headPx + rows.length * rowPx + 14;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${widthPx}" height="${y}" viewBox="0 0 ${widthPx} ${y}" font-family="sans-serif" font-size="12">
<title>Relays side by side: CPU and throughput</title>
<rect width="100%" height="100%" fill="white"/>
${text(10, 24, 'Relays side by side, one run', 'font-size="16" font-weight="bold"')}
${text(10, 44, `${machine}; ${date.slice(0, 10)}; ${rounds} rounds of ${seconds} s in turns, medians`, looks.head)}
${body.join('\n')}
</svg>
`;
}

function columnX(column) {
  return labelPx + column * (columnPx + 10);
}

function text(x, y, words, attributes) {
  const escaped = words.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
  return `<text x="${x.toFixed(1)}" y="${y}" ${attributes}>${escaped}</text>`;
}
