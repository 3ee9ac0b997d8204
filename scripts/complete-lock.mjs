// Adds to package-lock.json what a registry that serves only this platform leaves out: the entries of the other
// platforms' optional packages. Without them `npm ci` refuses the lock file. To be run after each `npm install`;
// `--check` only says what is missing.
import { readFileSync, writeFileSync } from 'node:fs';

const systems = [
  'aix',
  'android',
  'darwin',
  'freebsd',
  'linux',
  'netbsd',
  'openbsd',
  'openharmony',
  'sunos',
  'win32',
];
const processors = [
  'arm64',
  'arm',
  'x64',
  'ia32',
  'loong64',
  'mips64el',
  'ppc64',
  'riscv64',
  's390x',
  'wasm32',
];
const libraries = { musl: 'musl', gnu: 'glibc' };

const lock = JSON.parse(readFileSync('package-lock.json', 'utf8'));
const missing = Object.entries(lock.packages).flatMap(([path, { optionalDependencies = {}, dev }]) =>
  Object.entries(optionalDependencies)
    .filter(([name]) => !isThere(path, name))
    .map(([name, version]) => [`node_modules/${name}`, describe(name, version, dev)]),
);

if (process.argv.includes('--check')) {
  for (const [path] of missing) process.stderr.write(`package-lock.json lacks ${path}\n`);
  if (missing.length > 0) process.stderr.write('run: node scripts/complete-lock.mjs\n');
  process.exitCode = missing.length > 0 ? 1 : 0;
} else if (missing.length > 0) {
  const packages = { ...lock.packages, ...Object.fromEntries(missing) };
  const paths = Object.keys(packages).sort((one, other) => one.localeCompare(other, 'en'));
  lock.packages = Object.fromEntries(paths.map((path) => [path, packages[path]]));
  writeFileSync('package-lock.json', `${JSON.stringify(lock, null, 2)}\n`);
}

/** Looks where npm would: beside the package that asks, then in every folder above it. */
function isThere(path, name) {
  const steps = path.split('/node_modules/');
  return (
    steps.some(
      (_, index) => lock.packages[`${steps.slice(0, index + 1).join('/node_modules/')}/node_modules/${name}`],
    ) || `node_modules/${name}` in lock.packages
  );
}

/** Such packages carry their platform in their name; they are pinned by those that ask for them. */
function describe(name, version, dev) {
  const words = name.split(/[/.-]/);
  const library = words.find((word) => word in libraries);
  return {
    version: version.replace(/^[\^~]/, ''),
    cpu: processors.filter((processor) => words.includes(processor)),
    ...(dev ? { dev } : {}),
    ...(library ? { libc: [libraries[library]] } : {}),
    optional: true,
    os: systems.filter((system) => words.includes(system)),
  };
}
