import { readFileSync } from 'node:fs';
import { build } from 'esbuild';
import { expect, test } from 'vitest';

interface Locked {
  version: string;
  dev?: boolean;
  optional?: boolean;
  hasInstallScript?: boolean;
  integrity?: string;
  dependencies?: Record<string, string>;
}
interface Manifest {
  dependencies: Record<string, string>;
  devDependencies: Record<string, string>;
  license?: string;
}

const readJson = <T>(path: string) => JSON.parse(readFileSync(path, 'utf8')) as T;
const manifest = readJson<Manifest>('package.json');
const lock = readJson<{ packages: Record<string, Locked> }>('package-lock.json').packages;
const page = readFileSync('docs/dependencies.md', 'utf8');
const installed = Object.entries(lock).filter(([path]) => path !== '');
const runtime = installed.filter(([, { dev }]) => dev !== true);

/** Licences that let us put the code into bundles under Apache-2.0. */
const licences = new Set([
  'Apache-2.0',
  'MIT',
  'ISC',
  'BSD-2-Clause',
  'BSD-3-Clause',
  '0BSD',
  '(BSD-3-Clause OR GPL-2.0)',
  'BlueOak-1.0.0',
]);

test('every run-time package is locked to one version with its hash, and those that we chose are named exactly', () => {
  expect(runtime.length).toBeGreaterThan(20);
  expect(
    runtime.filter(([, { integrity }]) => integrity?.startsWith('sha512-') !== true).map(([path]) => path),
  ).toEqual([]);
  for (const version of Object.values({ ...manifest.dependencies, ...manifest.devDependencies }))
    expect(version).toMatch(/^\d+\.\d+\.\d+$/);
});

test('no package that ends up on a host that mounts wants to run a script when it is installed', () => {
  expect(
    runtime.filter(([, { hasInstallScript }]) => hasInstallScript === true).map(([path]) => path),
  ).toEqual([]);
});

test('docs/dependencies.md names every package that we chose', () => {
  const named = [...page.matchAll(/`([^`]+)`/g)].map(([, name]) => name);

  expect(
    Object.keys({ ...manifest.dependencies, ...manifest.devDependencies }).filter(
      (name) => !named.includes(name),
    ),
  ).toEqual([]);
});

test('every package in the bundles has a licence that allows it', () => {
  const found = runtime
    .filter(([, { optional }]) => optional !== true)
    .map(([path]) => [path, readJson<Manifest>(`${path}/package.json`).license ?? 'none'] as const);

  expect(found.filter(([, licence]) => !licences.has(licence))).toEqual([]);
});

test('the bundles contain our own code and what comes with the packages that docs/dependencies.md names', {
  timeout: 120_000,
}, async () => {
  const { metafile } = await build({
    entryPoints: [
      'src/main.ts',
      'src/mount-efs.ts',
      'src/agent/main.ts',
      'src/tunnel/worker.ts',
      'src/identity/main.ts',
    ],
    bundle: true,
    splitting: true,
    write: false,
    metafile: true,
    format: 'esm',
    platform: 'node',
    outdir: 'unused',
    banner: { js: '' },
  });
  const packages = new Set<string>();
  const strangers: string[] = [];
  for (const input of Object.keys(metafile.inputs)) {
    const name = /^node_modules\/(?:.*\/node_modules\/)?((?:@[^/]+\/)?[^/]+)\//.exec(input)?.[1];
    if (name !== undefined) packages.add(name);
    else if (!input.startsWith('src/') && !input.startsWith('(disabled)') && !input.startsWith('<'))
      strangers.push(input);
  }
  const allowed = closureOf(Object.keys(manifest.dependencies));

  expect(strangers).toEqual([]);
  expect(packages.size).toBeGreaterThan(10);
  expect([...packages].filter((name) => !allowed.has(name))).toEqual([]);
});

/** The packages that these need, and those need, by name. */
function closureOf(names: string[]): Set<string> {
  const closure = new Set<string>();
  const waiting = [...names];
  for (let name = waiting.pop(); name !== undefined; name = waiting.pop()) {
    if (closure.has(name)) continue;
    closure.add(name);
    for (const [path, { dependencies = {} }] of installed)
      if (path === `node_modules/${name}` || path.endsWith(`/node_modules/${name}`))
        waiting.push(...Object.keys(dependencies));
  }
  return closure;
}

test('the findings of docs/dependencies.md are of the very versions that are locked', () => {
  const rows = page.slice(page.indexOf('## Findings')).matchAll(/^\| `([^`]+)` \| ([\d.]+) \|/gm);

  expect(Object.fromEntries([...rows].map(([, name, version]) => [name, version]))).toEqual(
    manifest.dependencies,
  );
});
