// Builds the bundles into dist/: one file per process, no node_modules at run time.
import { chmodSync, readFileSync, rmSync } from 'node:fs';
import { build } from 'esbuild';

const { version } = JSON.parse(readFileSync('package.json', 'utf8'));
const shared = {
  bundle: true,
  platform: 'node',
  target: 'node20.19',
  legalComments: 'none',
  minifySyntax: true,
  define: { __EFS_AGENT_VERSION__: JSON.stringify(version) },
  logLevel: 'warning',
};
// CommonJS starts a few milliseconds sooner and is what winston and node-forge are written in.
const processes = {
  'mount-efs': 'src/mount-efs.ts',
  agent: 'src/agent/main.ts',
  worker: 'src/tunnel/worker.ts',
  identity: 'src/identity/main.ts',
};

rmSync('dist', { recursive: true, force: true });
await Promise.all([
  ...Object.entries(processes).map(([name, entry]) =>
    build({ ...shared, entryPoints: [entry], outfile: `dist/${name}.cjs`, format: 'cjs' }),
  ),
  // yargs is an ES module only; splitting keeps each command's code out of the others' start-up.
  build({
    ...shared,
    entryPoints: { 'efs-agent': 'src/main.ts' },
    outdir: 'dist',
    outExtension: { '.js': '.mjs' },
    format: 'esm',
    splitting: true,
    chunkNames: 'chunks/[name]-[hash]',
    banner: { js: "import { createRequire as bundleRequire } from 'node:module'; const require = bundleRequire(import.meta.url);" },
  }),
]);
for (const name of ['dist/mount-efs.cjs', 'dist/efs-agent.mjs']) chmodSync(name, 0o755);
