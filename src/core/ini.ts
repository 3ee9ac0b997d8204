import { AgentError } from './errors.ts';

/** A value as it stands in a file, before interpolation, and where. */
export interface IniEntry {
  raw: string;
  path: string;
  line: number;
}

/** Section name to key to entry; keys are in lower case. `DEFAULT` is visible in every section. */
export type Ini = ReadonlyMap<string, ReadonlyMap<string, IniEntry>>;

/** A value after interpolation, and where it stands. */
export interface IniValue {
  text: string;
  path: string;
  line: number;
}

const defaultSection = 'DEFAULT';
const maxInterpolationDepth = 10;

/**
 * Reads a configuration file in the dialect of Python's ConfigParser.
 *
 * Errors: `config.malformed` with path and line. Source: specification 2; Python library reference,
 * "configparser", "Supported INI File Structure".
 */
export function parseIni(text: string, path: string): Ini {
  const sections = new Map<string, Map<string, IniEntry>>([[defaultSection, new Map()]]);
  let section: { name: string; entries: Map<string, IniEntry> } | null = null;
  let entry: IniEntry | null = null;
  let indent = 0;
  for (const [index, whole] of text
    .replace(/^\uFEFF/, '')
    .split(/\r\n|\n|\r/)
    .entries()) {
    const line = index + 1;
    const trimmed = whole.trim();
    if (trimmed.startsWith('#') || trimmed.startsWith(';')) continue;
    if (trimmed === '') {
      if (entry !== null) entry.raw += '\n';
      continue;
    }
    const ownIndent = whole.length - whole.trimStart().length;
    if (entry !== null && ownIndent > indent) {
      entry.raw += `\n${trimmed}`;
      continue;
    }
    indent = ownIndent;
    const header = /^\[(.+)\]/s.exec(trimmed)?.[1];
    if (header !== undefined) {
      if (header !== defaultSection && sections.has(header))
        throw malformed(path, line, `section [${header}] stands twice`);
      const entries = sections.get(header) ?? new Map<string, IniEntry>();
      sections.set(header, entries);
      section = { name: header, entries };
      entry = null;
      continue;
    }
    if (section === null) throw malformed(path, line, 'the line stands before the first [section]');
    const delimiter = trimmed.search(/[=:]/);
    const key = trimmed.slice(0, Math.max(0, delimiter)).trim().toLowerCase();
    if (key === '') throw malformed(path, line, 'the line is not "key = value"');
    if (section.entries.has(key)) throw malformed(path, line, `${key} stands twice in [${section.name}]`);
    entry = { raw: trimmed.slice(delimiter + 1).trim(), path, line };
    section.entries.set(key, entry);
  }
  for (const entries of sections.values()) for (const one of entries.values()) one.raw = one.raw.trimEnd();
  return sections;
}

/** Lays files over one another: a key of a later one replaces that of an earlier one. */
export function mergeInis(inis: readonly Ini[]): Ini {
  const merged = new Map<string, Map<string, IniEntry>>();
  for (const [name, entries] of inis.flatMap((ini) => [...ini])) {
    merged.set(name, new Map([...(merged.get(name) ?? []), ...entries]));
  }
  return merged;
}

/**
 * The value of a key in a section, or in `DEFAULT`, with `%(name)s` and `%%` replaced; null when neither has it.
 *
 * Errors: `config.malformed` for a lone `%`, an unknown name, or names that refer to each other in a circle.
 */
export function findIniValue(ini: Ini, section: string, key: string): IniValue | null {
  const entry = findEntry(ini, section, key.toLowerCase());
  if (entry === undefined) return null;
  return { text: interpolate(ini, section, entry, 1), path: entry.path, line: entry.line };
}

function findEntry(ini: Ini, section: string, key: string): IniEntry | undefined {
  return ini.get(section)?.get(key) ?? ini.get(defaultSection)?.get(key);
}

function interpolate(ini: Ini, section: string, entry: IniEntry, depth: number): string {
  if (depth > maxInterpolationDepth)
    throw malformed(entry.path, entry.line, 'the names in %(name)s refer to each other');
  return entry.raw.replace(/%(?:%|\(([^)]+)\)s)?/g, (token: string, name: string | undefined) => {
    if (token === '%%') return '%';
    if (name === undefined) throw malformed(entry.path, entry.line, 'a % must be written %% or %(name)s');
    const other = findEntry(ini, section, name.toLowerCase());
    if (other === undefined)
      throw malformed(entry.path, entry.line, `%(${name})s names no key of [${section}]`);
    return interpolate(ini, section, other, depth + 1);
  });
}

function malformed(path: string, line: number, why: string): AgentError {
  return new AgentError('config.malformed', `${path}:${line}: ${why}`, { path, line });
}
