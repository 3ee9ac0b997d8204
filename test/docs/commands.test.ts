import { execFileSync, spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { expect, test } from 'vitest';
import { prepareCommandLine } from '../../src/cli/command-line.ts';
import { faults } from '../../src/core/faults.ts';
import { parseFstab } from '../../src/core/fstab.ts';
import { parseHelperArgv, parseMountSpec, parseUmountArgv } from '../../src/core/mount-spec.ts';
import { openHelperStage } from '../helper/stage.ts';

const folder = (name: string) =>
  readdirSync(name)
    .filter((file) => file.endsWith('.md'))
    .map((file) => `${name}/${file}`);
const pages = [
  ...['README.md', 'CONTRIBUTING.md', 'SECURITY.md', ...folder('docs'), ...folder('bench')],
  ...readdirSync('contrib').flatMap((name) => folder(`contrib/${name}`)),
];
const scripts = (JSON.parse(readFileSync('package.json', 'utf8')) as { scripts: Record<string, string> })
  .scripts;
const program = resolve('dist/efs-agent.mjs');

interface Command {
  where: string;
  words: string[];
}

/** What stands before a command, and is none of ours. */
const prefixes = /^(sudo|[A-Z_]+=.*|\/usr\/lib\/efs-agent\/entry)$/;

/**
 * The commands of a page: the lines of its blocks of shell, what was typed in its blocks of output (behind `#` or `$`),
 * the `command:` of its YAML, and what it names in passing, if that begins as a command of ours and is whole.
 *
 * Comments, continued lines, variables and programs that only run another one are taken away.
 */
function listCommands(page: string): Command[] {
  const commands: Command[] = [];
  let block: string | null = null;
  let pending = '';
  readFileSync(page, 'utf8')
    .split('\n')
    .forEach((line, index) => {
      const add = (words: string[]) => {
        const behind = words[0] === 'kubectl' ? words.slice(words.indexOf('--') + 1) : words;
        while (prefixes.test(behind[0] ?? '')) behind.shift();
        if (behind.length > 0) commands.push({ where: `${page}:${index + 1}`, words: behind });
      };
      const addLine = (text: string) => {
        for (const one of text.replace(/(^|\s)#.*$/, '').split(/ && | \| |; /)) add(splitWords(one));
      };
      if (line.startsWith('```')) block = block === null ? line.slice(3) : null;
      else if (block === 'sh' && line.endsWith('\\')) pending += `${line.slice(0, -1)} `;
      else if (block === 'sh') {
        addLine(`${pending}${line}`);
        pending = '';
      } else if (block === 'yaml') {
        const list = /^\s*command: (\[.*\])$/.exec(line)?.[1];
        if (list !== undefined) add(JSON.parse(list) as string[]);
      } else if (block === '') {
        const typed = /^[#$] (.*)$/.exec(line)?.[1];
        if (typed !== undefined) addLine(typed);
      } else if (block === null) {
        // The name of a command, without what it needs.
        for (const [, text = ''] of line.matchAll(/`((?:efs-agent|mount -t efs|npm run) [^`]*)`/g))
          if (/^efs-agent( [a-z][a-z-]*)+$/.test(text)) addLine(`${text} --help`);
          else if (!/[<…[]|\.\.\./.test(text)) addLine(text);
      }
    });
  return commands;
}

function splitWords(text: string): string[] {
  return [...text.matchAll(/'([^']*)'|"([^"]*)"|(\S+)/g)].map(([, one, two, bare]) => one ?? two ?? bare!);
}

const all = pages.flatMap(listCommands);

function parseMount(words: string[]): void {
  const given = parseHelperArgv(words);
  if (given.kind !== 'mount') throw new Error(`no mount: ${words.join(' ')}`);
  parseMountSpec(given.device, given.options);
}

/** What is parsed by the very parsers that run it, or found in this clone. */
const provable: Record<string, (words: string[]) => unknown> = {
  'efs-agent': async (words) => {
    const stage = openHelperStage();
    try {
      await prepareCommandLine(words, stage.caller({ program: 'efs-agent' }));
    } finally {
      await stage.close();
    }
  },
  mount: (words) => {
    expect(words.slice(0, 2)).toEqual(['-t', 'efs']);
    parseMount(words.slice(2));
  },
  umount: (words) => parseUmountArgv(words),
  // The program of contrib/cdk on the instance; it tells an option that it does not have.
  '/usr/lib/efs-agent/bin/node': ([script = '', ...rest]) => {
    const program = [join('contrib/cdk', script), ...rest, '--help'];
    expect(spawnSync(process.execPath, program, { encoding: 'utf8' })).toMatchObject({
      status: 0,
      stderr: '',
    });
  },
  npm: ([verb, name = '']) => {
    if (verb === 'run') expect(Object.keys(scripts)).toContain(name);
    else expect(['ci', 'install', 'pack']).toContain(verb);
  },
  npx: ([name = '', verb = '', ...rest]) => {
    // Not ours, and for an account only: a pinned version, and a command that it has.
    if (name.startsWith('aws-cdk')) {
      expect(name).toMatch(/^aws-cdk@\d+\.\d+\.\d+$/);
      expect(['deploy', 'destroy']).toContain(verb);
      return;
    }
    expect([name, verb]).toEqual(['vitest', 'run']);
    for (const path of rest.filter((word) => word.startsWith('test/'))) expect(existsSync(path)).toBe(true);
  },
};

/**
 * Commands of the system and of AWS that change the machine or need an account: their files and units are ours and are
 * looked at; the tests named here, or AWS alone, can show that they work.
 */
const elsewhere: Record<string, string> = {
  aws: 'needs an AWS account',
  git: 'needs a network',
  apt: 'test/packages/installed.test.ts installs by dpkg',
  dnf: 'test/packages/installed.test.ts installs by rpm',
  dpkg: 'test/packages/installed.test.ts',
  rpm: 'test/packages/installed.test.ts',
  systemctl: 'test/kernel/restart.test.ts',
  journalctl: 'test/kernel, where there is a journal',
  curl: 'test/agent, the metrics socket',
  cd: 'a step on the way',
  mkdir: 'a step on the way',
  cp: 'a step on the way',
  df: 'test/kernel/scenes.test.ts',
  ss: 'test/kernel/scenes.test.ts',
};

test('there are commands in the documents, and each is proved here or says where it is', () => {
  expect(all.length).toBeGreaterThan(20);
  const unknown = all.filter(
    ({ words: [name = ''] }) => !(name in provable) && !(name in elsewhere) && !/^(\.|scripts)\//.test(name),
  );
  expect(unknown.map(({ where, words }) => `${where}: ${words.join(' ')}`)).toEqual([]);
});

for (const { where, words } of all.filter(({ words: [name = ''] }) => name in provable)) {
  test(`${where}: ${words.join(' ')}`, async () => {
    await provable[words[0]!]!(words.slice(1));
  });
}

test('no page has commands in a block that nobody reads: indented ones, and fences of unknown kinds', () => {
  for (const page of pages) {
    const text = readFileSync(page, 'utf8');
    const kinds = [...text.matchAll(/^```(\S*)$/gm)].map(([, kind = '']) => kind);
    expect(
      kinds.filter((kind) => !['', 'sh', 'json', 'ini', 'yaml', 'text'].includes(kind)),
      page,
    ).toEqual([]);
    const outside = text.replaceAll(/^```[\s\S]*?^```$/gm, '');
    expect(outside.match(/\n\n {4,}\S.*/g) ?? [], page).toEqual([]);
  }
});

test('scripts of this clone that are named are there and can be run', () => {
  const own = all.filter(({ words: [name = ''] }) => /^(\.|scripts)\//.test(name));
  expect(own.length).toBeGreaterThan(3);
  for (const { where, words } of own)
    expect(() => accessSync(words[0]!, constants.X_OK), where).not.toThrow();
  for (const name of ['./install.sh', './check']) {
    const usage = spawnSync(name, ['--help'], { encoding: 'utf8' });
    expect(usage.status, name).toBe(0);
    for (const { words } of own.filter(({ words: [first] }) => first === name))
      for (const option of words.filter((word) => word.startsWith('--')))
        expect(usage.stdout).toContain(option);
  }
});

test('units of systemd that are named exist', () => {
  const named = all
    .filter(({ words: [name] }) => name === 'systemctl')
    .flatMap(({ words }) => words.slice(2));
  for (const unit of named.filter((word) => !word.startsWith('-')))
    expect(['efs-agent', 'efs-agent.service', 'efs-agent.socket']).toContain(unit);
});

test('what can be run without a mount is run: status, config, explain, completion', async () => {
  const stage = openHelperStage();
  try {
    const safe = all.filter(
      ({ words: [name, command = ''] }) =>
        name === 'efs-agent' && ['status', 'config', 'explain', 'completion'].includes(command),
    );
    expect(safe.length).toBeGreaterThan(2);
    for (const { where, words } of safe.filter(({ words: each }) => !each.includes('--watch')))
      expect(
        execFileSync(process.execPath, [program, ...words.slice(1)], {
          encoding: 'utf8',
          env: stage.environment,
        }),
        where,
      ).not.toBe('');
  } finally {
    await stage.close();
  }
});

test('the policy of the tutorial allows its role what the tutorial and the README say', async () => {
  const stage = openHelperStage();
  try {
    const [, policy = ''] = /^```json\n([\s\S]*?)^```$/m.exec(readFileSync('docs/tutorial.md', 'utf8'))!;
    const { words } = all.find(
      ({ where, words: [, command] }) => where.startsWith('docs/tutorial.md') && command === 'policy',
    )!;
    stage.write('policy.json', policy);

    const told = execFileSync(process.execPath, [program, ...words.slice(1)], {
      encoding: 'utf8',
      cwd: stage.directory,
      env: stage.environment,
    });

    expect(told.match(/\b(allowed|denied)\b/g)).toEqual(['allowed', 'allowed', 'denied']);
    expect(readFileSync('README.md', 'utf8')).toContain(`# ${words.join(' ')}\n${told}`);
  } finally {
    await stage.close();
  }
});

test('every error code that a document shows is in the catalogue', () => {
  const shown = [...pages, ...folder('docs/decisions')].flatMap((page) =>
    [...readFileSync(page, 'utf8').matchAll(/\[([a-z-]+\.[a-z-]+)\](?!\()/g)].map(([, code = '']) => ({
      page,
      code,
    })),
  );
  expect(shown.length).toBeGreaterThan(15);
  for (const { page, code } of shown) expect(Object.keys(faults), page).toContain(code);
});

test('the lines for fstab in the documents are what mount.efs understands', () => {
  const lines = pages.flatMap((page) =>
    [...readFileSync(page, 'utf8').matchAll(/^(fs-\S+\s+\/\S+\s+efs\s.*)$/gm)].map(([line]) => line),
  );
  expect(lines.length).toBeGreaterThan(1);
  for (const line of lines) {
    expect(parseFstab(line), line).toHaveLength(1);
    const [device = '', directory = '', , options = ''] = line.split(/\s+/);
    parseMount([device, directory, '-o', options]);
  }
});

test('links in the documents resolve', () => {
  let links = 0;
  for (const page of [...pages, ...folder('docs/decisions')]) {
    for (const [, target = ''] of readFileSync(page, 'utf8').matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target)) continue;
      const [path = '', anchor] = target.split('#');
      const file = path === '' ? page : join(dirname(page), path);
      expect(existsSync(file), `${page}: ${target}`).toBe(true);
      links += 1;
      if (anchor !== undefined) expect(headingsOf(file), `${page}: ${target}`).toContain(anchor);
    }
  }
  expect(links).toBeGreaterThan(15);
});

/** As the usual renderers name them. */
function headingsOf(file: string): string[] {
  return [...readFileSync(file, 'utf8').matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-'),
  );
}
