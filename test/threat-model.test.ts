import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const page = readFileSync('docs/threat-model.md', 'utf8');
const rows = page.split('\n').filter((line) => line.startsWith('|') && !/^\|(?:-|\s*threat)/.test(line));

test('every threat of docs/threat-model.md names a test that is there', () => {
  expect(rows.length).toBeGreaterThan(15);
  for (const row of rows) {
    const proofs = [
      ...row
        .split('|')
        .at(-2)!
        .matchAll(/`([^`]+)`/g),
    ].map(([, path]) => path!);

    expect(proofs.length, row).toBeGreaterThan(0);
    expect(
      proofs.filter((path) => !existsSync(path)),
      row,
    ).toEqual([]);
  }
});

test('every decision that the page leans on is there', () => {
  const listing = [...page.matchAll(/decision (\d{4})/g)].map(([, number]) => number!);

  expect(listing.length).toBeGreaterThan(3);
  const pages = readdirSync('docs/decisions');
  expect(listing.filter((number) => !pages.some((name) => name.startsWith(number)))).toEqual([]);
});
