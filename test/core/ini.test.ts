import fc from 'fast-check';
import { expect, test } from 'vitest';
import { AgentError } from '../../src/core/errors.ts';
import { findIniValue, type Ini, mergeInis, parseIni } from '../../src/core/ini.ts';

const path = '/etc/x.conf';

function textOf(text: string, section: string, key: string): string | undefined {
  return findIniValue(parseIni(text, path), section, key)?.text;
}

function malformed(line: number) {
  return expect.objectContaining({
    code: 'config.malformed',
    message: expect.stringContaining(`${path}:${line}: `),
  });
}

test('key and value are separated by the first equals sign or colon', () => {
  expect(textOf('[a]\nk = v', 'a', 'k')).toBe('v');
  expect(textOf('[a]\nk: v', 'a', 'k')).toBe('v');
  expect(textOf('[a]\nk = a:b=c', 'a', 'k')).toBe('a:b=c');
  expect(textOf('[a]\nk : a=b', 'a', 'k')).toBe('a=b');
  expect(textOf('[a]\nk =', 'a', 'k')).toBe('');
});

test('a comment is a whole line: what follows a value belongs to it', () => {
  expect(textOf('# c\n[a]\n; c\n  # c\nk = v ; not # a comment', 'a', 'k')).toBe('v ; not # a comment');
});

test('keys ignore case and section names do not', () => {
  const text = '[Mount]\nKey = v';

  expect(textOf(text, 'Mount', 'kEY')).toBe('v');
  expect(textOf(text, 'mount', 'key')).toBeUndefined();
});

test('an indented line continues the value, across comments and empty lines', () => {
  expect(textOf('[a]\nk = 1\n  2\n\n# c\n  3 = x\n\nj = 4', 'a', 'k')).toBe('1\n2\n\n3 = x');
});

test('keys in DEFAULT are visible in every section and weaker than its own', () => {
  const text = '[DEFAULT]\nk = d\nm = d\n[a]\nk = a';

  expect(textOf(text, 'a', 'k')).toBe('a');
  expect(textOf(text, 'a', 'm')).toBe('d');
  expect(textOf(text, 'b', 'm')).toBe('d');
});

test('names in percent signs are replaced by their values, and a double percent sign is one', () => {
  const text = '[DEFAULT]\nroot = /r\n[a]\ndir = %(ROOT)s/d\nfile = %(dir)s/100%%';

  expect(textOf(text, 'a', 'file')).toBe('/r/d/100%');
});

test.each([
  ['k = 50%', 2],
  ['k = %x', 2],
  ['k = %(other)s', 2],
  ['k = %(k', 2],
  ['k = %(j)s\nj = %(k)s', 3],
])('reading %j is an error that names its line', (lines, line) => {
  const ini = parseIni(`[a]\n${lines}`, path);

  expect(() => findIniValue(ini, 'a', 'k')).toThrow(expect.objectContaining({ code: 'config.malformed' }));
  expect(() => findIniValue(ini, 'a', 'k')).toThrow(new RegExp(`${path}:[2${line}]: `));
});

test('a value with a lone percent sign hurts nobody who does not read it', () => {
  expect(textOf('[a]\nbad = 50%\nk = v', 'a', 'k')).toBe('v');
});

test.each([
  ['k = v', 1],
  ['[a]\nnonsense', 2],
  ['[a]\n= v', 2],
  ['[a]\nk=1\n\nK=2', 4],
  ['[a]\n[b]\n[a]', 3],
  ['[DEFAULT]\nk=1\n[DEFAULT]\nk=2', 4],
])('the text %j is an error in line %i', (text, line) => {
  expect(() => parseIni(text, path)).toThrow(malformed(line));
});

test('line ends of other systems and a byte order mark change nothing', () => {
  expect(textOf('\uFEFF[a]\r\nk = v\r\n', 'a', 'k')).toBe('v');
});

test('a later file replaces single keys of an earlier one', () => {
  const merged = mergeInis([parseIni('[a]\nk = 1\nj = 1', '/one'), parseIni('[a]\nk = 2', '/two')]);

  expect(findIniValue(merged, 'a', 'k')).toEqual({ text: '2', path: '/two', line: 2 });
  expect(findIniValue(merged, 'a', 'j')).toEqual({ text: '1', path: '/one', line: 3 });
});

const names = fc.string({
  unit: fc.constantFrom('a', 'b', '_', '-', '.', '1', 'ü'),
  minLength: 1,
  maxLength: 8,
});
const values = fc.array(
  fc.string({ unit: fc.constantFrom('a', '=', ':', '%', '#', '[', ']', 'é'), minLength: 1, maxLength: 8 }),
  {
    maxLength: 3,
  },
);
const files = fc.dictionary(names, fc.dictionary(names, values));

test('what is written reads back the same, with its lines', () => {
  fc.assert(
    fc.property(
      files,
      fc.constantFrom(' = ', ':', '='),
      fc.constantFrom('\n', '\r\n'),
      (file, delimiter, end) => {
        const lines: string[] = [];
        const expected: [string, string, string, number][] = [];
        for (const [section, entries] of Object.entries(file)) {
          lines.push(`[${section}]`, '# comment');
          for (const [key, parts] of Object.entries(entries)) {
            const kept = parts.map((part) => part.replace(/^#/, 'x'));
            lines.push(`${key}${delimiter}${(kept[0] ?? '').replaceAll('%', '%%')}`);
            expected.push([section, key, kept.join('\n'), lines.length]);
            lines.push(...kept.slice(1).map((part) => `  ${part.replaceAll('%', '%%')}`));
          }
        }

        const ini: Ini = parseIni(lines.join(end), path);

        for (const [section, key, text, line] of expected) {
          expect(findIniValue(ini, section, key)).toEqual({ text, path, line });
        }
      },
    ),
  );
});

test('any text is a file or one error that names a line of it', () => {
  const text = fc.string({
    unit: fc.constantFrom('[a]', '[b]', 'k', '=', ':', ' ', '\n', '#', '%', '%(k)s', '\t'),
    maxLength: 40,
  });
  fc.assert(
    fc.property(text, (some) => {
      try {
        const ini = parseIni(some, path);
        for (const [section, entries] of ini)
          for (const key of entries.keys()) findIniValue(ini, section, key);
      } catch (error) {
        expect(error).toBeInstanceOf(AgentError);
        expect(error).toMatchObject({
          code: 'config.malformed',
          message: expect.stringMatching(/^\/etc\/x\.conf:[1-9][0-9]*: /),
        });
      }
    }),
  );
});
