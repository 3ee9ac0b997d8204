import { readdirSync, readFileSync } from 'node:fs';
import { builtinModules } from 'node:module';
import { dirname, join, normalize } from 'node:path';
import { build } from 'esbuild';
import { expect, test } from 'vitest';

interface Rule {
  folders: string[];
  /** Single files of other folders. */
  files?: string[];
  packages: string[];
}

/** What each folder of src/ may import: other folders, and packages. Its own files always; Node's modules unless said otherwise. */
const rules: Record<string, Rule> = {
  core: { folders: [], packages: [] },
  tunnel: { folders: ['core'], packages: [] },
  identity: {
    folders: ['core'],
    // Reads what a caller names, as the agent does.
    files: ['host/regular-file.ts'],
    packages: [
      '@aws-sdk/client-cloudwatch-logs',
      '@aws-sdk/client-ec2',
      '@aws-sdk/client-efs',
      '@aws-sdk/client-sts',
      '@aws-sdk/credential-providers',
      'node-forge',
    ],
  },
  target: { folders: ['core'], packages: ['@humanwhocodes/momoa', 'asn1js'] },
  host: { folders: ['core'], packages: [] },
  observe: { folders: ['core'], packages: ['winston'] },
  agent: { folders: ['core'], packages: [] },
  helper: { folders: ['core', 'host'], packages: [] },
  doctor: {
    folders: ['core', 'host', 'helper'],
    // What a mount decides and how it dials, without the agent.
    files: [
      'agent/addresses.ts',
      'agent/direct.ts',
      'agent/identities.ts',
      'agent/plan.ts',
      'agent/tunnel.ts',
      'tunnel/dial.ts',
    ],
    packages: [],
  },
  cli: { folders: ['core', 'helper'], packages: ['yargs', 'string-width'] },
};
/** Files with rights, or limits, of their own. */
const exceptions: Record<string, Rule> = {
  'agent/wire.ts': { folders: ['core', 'host', 'observe'], packages: [] },
  'agent/views.ts': { folders: ['core', 'host', 'observe'], packages: [] },
  'agent/main.ts': { folders: ['core', 'host', 'observe'], packages: [] },
  'cli/bundle.ts': { folders: ['core', 'helper', 'doctor'], packages: ['yargs'] },
  'cli/doctor.ts': { folders: ['core', 'helper', 'doctor'], packages: ['yargs'] },
  'cli/policy.ts': { folders: ['core', 'helper', 'target'], packages: ['yargs'] },
  'cli/target.ts': { folders: ['core', 'helper', 'target'], packages: ['yargs'] },
  'main.ts': { folders: ['core', 'helper', 'cli'], packages: [] },
  'mount-efs.ts': { folders: ['core', 'host', 'helper'], packages: [] },
};
/** Fewer files than this, and the test is looking in the wrong place. */
const fewestFiles: Record<string, number> = {
  core: 17,
  tunnel: 6,
  identity: 9,
  target: 12,
  host: 12,
  observe: 1,
  agent: 9,
  helper: 10,
  doctor: 20,
  cli: 7,
};

interface Import {
  file: string;
  /** A file of src/, a package, or a module of Node's with its prefix. */
  target: string;
  kind: 'file' | 'package' | 'node';
  typeOnly: boolean;
}

const files = readdirSync('src', { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))
  .sort();
const imports = files.flatMap(readImports);

function readImports(file: string): Import[] {
  const text = readFileSync(join('src', file), 'utf8');
  const statements = [
    ...text.matchAll(/^(?:import|export)\s+(type\s+)?(?:[^'";]*?\sfrom\s+)?'([^']+)'/gm),
    ...text.matchAll(/\bimport(\s*)\(\s*'([^']+)'/g),
  ];
  return statements.map((match) => {
    const specifier = match[2]!;
    const typeOnly = /^(import|export)\s+type\b/.test(match[0]);
    if (specifier.startsWith('.')) {
      return { file, target: normalize(join(dirname(file), specifier)), kind: 'file', typeOnly };
    }
    const isNode = specifier.startsWith('node:') || builtinModules.includes(specifier);
    return { file, target: specifier, kind: isNode ? 'node' : 'package', typeOnly };
  });
}

const folderOf = (file: string) => (file.includes('/') ? file.split('/')[0]! : '');
const ruleOf = (file: string) => exceptions[file] ?? rules[folderOf(file)];
const say = (found: Import[]) => found.map(({ file, target }) => `${file} -> ${target}`);

test('every folder of src is known, and has at least the files it had', () => {
  expect(files.filter((file) => ruleOf(file) === undefined)).toEqual([]);
  for (const [folder, fewest] of Object.entries(fewestFiles)) {
    expect(files.filter((file) => folderOf(file) === folder).length, folder).toBeGreaterThanOrEqual(fewest);
  }
  for (const file of Object.keys(exceptions)) expect(files).toContain(file);
  expect(imports.length).toBeGreaterThan(200);
});

test('no file imports from a folder that its own may not know', () => {
  const wrong = imports.filter(
    ({ file, target, kind }) =>
      kind === 'file' &&
      folderOf(target) !== folderOf(file) &&
      !ruleOf(file)!.folders.includes(folderOf(target)) &&
      !ruleOf(file)!.files?.includes(target),
  );

  expect(say(wrong)).toEqual([]);
});

test('every package is imported only by the folder it is for', () => {
  const wrong = imports.filter(
    ({ file, target, kind }) =>
      kind === 'package' &&
      !ruleOf(file)!.packages.some((name) => target === name || target.startsWith(`${name}/`)),
  );

  expect(say(wrong)).toEqual([]);
});

test('core knows nothing of the machine: of Node only hashes, and types', () => {
  const wrong = imports.filter(
    ({ file, target, kind, typeOnly }) =>
      folderOf(file) === 'core' && kind === 'node' && target !== 'node:crypto' && !typeOnly,
  );

  expect(say(wrong)).toEqual([]);
  for (const file of files.filter((name) => folderOf(name) === 'core')) {
    const code = readFileSync(join('src', file), 'utf8').replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');
    expect(code.match(/^import (?!\{ createHash \}).* from 'node:crypto';$/gm), file).toBeNull();
    expect(
      code.match(/\b(Date\.now|Math\.random|performance\.|process\.|set(Timeout|Interval)|new Date\(\))/g),
      file,
    ).toBeNull();
  }
});

test('only entry points end the process', () => {
  const entryPoints = ['main.ts', 'mount-efs.ts', 'agent/main.ts', 'identity/main.ts', 'tunnel/worker.ts'];
  const ending = files.filter((file) => /\bprocess\.exit\(/.test(readFileSync(join('src', file), 'utf8')));

  expect(ending.filter((file) => !entryPoints.includes(file))).toEqual([]);
});

test('no test mocks a module or patches a global', () => {
  const tests = readdirSync('test', { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && file !== 'architecture.test.ts')
    .map((file) => join('test', file));
  const mocking = tests.filter((file) =>
    /\bvi\.(mock|doMock|stubGlobal|spyOn|useFakeTimers)\(/.test(readFileSync(file, 'utf8')),
  );

  expect(tests.length).toBeGreaterThan(30);
  expect(mocking).toEqual([]);
});

/** What goes into the bundle of one process: files of src/, packages, modules of Node's. */
async function readBundle(entry: string): Promise<{ sources: string[]; packages: string[]; node: string[] }> {
  const { metafile } = await build({
    entryPoints: [entry],
    bundle: true,
    platform: 'node',
    format: 'esm',
    outdir: 'out',
    splitting: true,
    write: false,
    metafile: true,
    logLevel: 'silent',
  });
  const inputs = Object.values(metafile.outputs).flatMap((output) => Object.keys(output.inputs));
  const external = Object.values(metafile.inputs).flatMap((input) =>
    input.imports.filter((each) => each.external),
  );
  return {
    sources: [...new Set(inputs.filter((name) => name.startsWith('src/')))].sort(),
    packages: [
      ...new Set(inputs.flatMap((name) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(name)?.[1] ?? [])),
    ].sort(),
    node: [...new Set(external.map(({ path }) => path))].sort(),
  };
}

test('the mount helper is built from Node and our own files alone, so that it starts fast', async () => {
  const { sources, packages } = await readBundle('src/mount-efs.ts');

  expect(packages).toEqual([]);
  expect(sources).toContain('src/core/mount-spec.ts');
});

test('the tunnel worker knows sockets and TLS only, and in one place the TCP tables of the kernel', async () => {
  const { sources, packages, node } = await readBundle('src/tunnel/worker.ts');

  expect(packages).toEqual([]);
  expect(sources.filter((name) => !/^src\/(core|tunnel)\//.test(name))).toEqual([]);
  const known = ['node:net', 'node:tls', 'node:timers/promises', 'node:util', 'node:crypto', 'node:os'];
  expect(node.filter((name) => !known.includes(name))).toEqual(['node:fs']);
  const reading = sources.filter((name) => readFileSync(name, 'utf8').includes("from 'node:fs"));
  expect(reading).toEqual(['src/tunnel/send-queues.ts']);
  expect(readFileSync(reading[0]!, 'utf8').match(/readFileSync\(|'\/[^']*'/g)).toEqual([
    "'/proc/net/tcp6'",
    "'/proc/net/tcp'",
    'readFileSync(',
  ]);
});

test('the agent carries neither the AWS SDK nor node-forge nor yargs, nor the tunnel or identity code', async () => {
  const { sources, packages } = await readBundle('src/agent/main.ts');

  expect(packages).toContain('winston');
  expect(packages.filter((name) => /^@aws-sdk|^@smithy|^node-forge$|^asn1js$|^yargs/.test(name))).toEqual([]);
  expect(sources.filter((name) => /^src\/(tunnel|identity|target|helper|cli)\//.test(name))).toEqual([]);
});

test('the local mount target shares no code with the signer it checks', async () => {
  const { sources, packages } = await readBundle('src/cli/target.ts');

  expect(sources.filter((name) => /^src\/(identity|tunnel|agent)\//.test(name))).toEqual([]);
  expect(packages.filter((name) => /^@aws-sdk|^@smithy|^node-forge$/.test(name))).toEqual([]);
});

test('docs/dependencies.md has every dependency, each with an exact version, and no other', () => {
  const { dependencies, devDependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as Record<
    string,
    Record<string, string>
  >;
  const versions = { ...dependencies, ...devDependencies };
  const [lists = ''] = readFileSync('docs/dependencies.md', 'utf8').split('## Findings');
  const rows = lists.match(/^\| `.*/gm) ?? [];
  const listed = rows.flatMap((row) =>
    [...row.split(' | ')[0]!.matchAll(/`([^`]+)`/g)].map((match) => match[1]),
  );

  expect(listed.toSorted()).toEqual(Object.keys(versions).toSorted());
  for (const version of Object.values(versions)) expect(version).toMatch(/^\d+\.\d+\.\d+$/);
});
