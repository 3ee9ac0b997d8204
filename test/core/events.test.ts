import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { events, findEvent } from '../../src/core/events.ts';

const sources = readdirSync('src', { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts') && name !== 'core/events.ts' && name !== 'core/faults.ts')
  .map((name) => readFileSync(join('src', name), 'utf8'));

test('docs/logs.md is what the table of events makes of it', () => {
  const page = execFileSync(process.execPath, ['scripts/logs-md.mjs', '--print'], { encoding: 'utf8' });

  expect(readFileSync('docs/logs.md', 'utf8')).toBe(page);
});

test('docs/logs.md has every event with its level and its message id', () => {
  const page = readFileSync('docs/logs.md', 'utf8');
  const rows = page.match(/^\| `.*/gm) ?? [];

  expect(rows).toHaveLength(Object.keys(events).length);
  for (const [name, { level, messageId }] of Object.entries(events)) {
    const row = rows.find((one) => one.startsWith(`| \`${name}\` `));
    expect(row, name).toMatch(
      new RegExp(`\\| ${level}(, notable)? \\| \`${messageId}\` \\| [A-Z].*\\. \\|$`),
    );
  }
});

test('every event that the source logs is in the table, and every one in the table is logged somewhere', () => {
  const logged = sources.flatMap((text) =>
    [
      ...text.matchAll(
        /\b(?:log|note|die)\(\s*(?:'(?:error|warn|info|debug)',\s*)?[^)]*?'([a-z-]+\.[a-z-]+)'/g,
      ),
    ].map((match) => match[1]!),
  );
  const unknown = logged.filter((name) => findEvent(name) === null);
  const unused = Object.keys(events).filter((name) => !sources.some((text) => text.includes(`'${name}'`)));

  expect(logged.length).toBeGreaterThan(40);
  expect(unknown.filter((name) => name !== 'agent.protocol')).toEqual([]);
  expect(unused).toEqual([]);
});

test('an event is logged at the level that the table says, where the source fixes one', () => {
  const wrong = sources.flatMap((text) =>
    [...text.matchAll(/\blog\(\s*'(error|warn|info|debug)',\s*'([a-z-]+\.[a-z-]+)'/g)]
      .filter(([, level, name]) => findEvent(name!)?.level !== level)
      .map(([whole]) => whole),
  );

  expect(wrong).toEqual([]);
});

test('message ids are 128 bits, and no two events share one', () => {
  const ids = Object.values(events).map(({ messageId }) => messageId);

  expect(new Set(ids).size).toBe(ids.length);
  for (const id of ids) expect(id).toMatch(/^[0-9a-f]{32}$/);
});
