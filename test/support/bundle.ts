import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { build } from 'esbuild';

const root = join(import.meta.dirname, '..', '..');

/**
 * Bundles one process as scripts/build.mjs does, into a temporary directory of its own.
 *
 * @param entry relative to the project's root, for example `src/tunnel/worker.ts`.
 * @returns the path of the bundle; `removeBundle` takes its directory away again.
 */
export async function buildBundle(entry: string): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'efs-agent-bundle-'));
  const outfile = join(directory, `${basename(entry, '.ts')}.cjs`);
  await build({
    absWorkingDir: root,
    entryPoints: [entry],
    outfile,
    bundle: true,
    platform: 'node',
    target: 'node20.19',
    format: 'cjs',
    legalComments: 'none',
    minifySyntax: true,
    define: { __EFS_AGENT_VERSION__: '"0.0.0-test"' },
    logLevel: 'warning',
  });
  return outfile;
}

/** Removes what `buildBundle` made. */
export async function removeBundle(path: string): Promise<void> {
  await rm(dirname(path), { recursive: true, force: true });
}
