import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { build, type Plugin } from 'esbuild';

const root = join(import.meta.dirname, '..', '..');

/**
 * Bundles one process as scripts/build.mjs does, into a temporary directory of its own.
 *
 * @param entry relative to the project's root, for example `src/tunnel/worker.ts`.
 * @returns the path of the bundle; `removeBundle` takes its directory away again.
 */
export async function buildBundle(entry: string): Promise<string> {
  const outfile = join(await newDirectory(), `${basename(entry, '.ts')}.cjs`);
  await bundle(entry, outfile, '0.0.0-test', []);
  return outfile;
}

/**
 * Builds agent and worker as the next version of efs-agent, whose protocols and records are those of today with their numbers raised.
 *
 * @returns the path of its `agent.cjs`; `removeBundle` takes its directory away again.
 */
export async function buildNextVersion(version: string): Promise<string> {
  const directory = await newDirectory();
  const raised = new Map<string, number>();
  const raiseVersions: Plugin = {
    name: 'raise-versions',
    setup: (bundler) => {
      bundler.onLoad({ filter: /\/src\/(agent|core)\/[a-z-]+\.ts$/ }, async ({ path }) => {
        const text = await readFile(path, 'utf8');
        const contents = text.replace(
          /^((?:export )?const (takeoverVersion|protocolVersion|currentVersion) = )(\d+);$/m,
          (_, declaration: string, name: string, number: string) => {
            raised.set(name, Number(number) + 1);
            return `${declaration}${Number(number) + 1};`;
          },
        );
        return { contents, loader: 'ts' };
      });
    },
  };
  await bundle('src/agent/main.ts', join(directory, 'agent.cjs'), version, [raiseVersions]);
  await bundle('src/tunnel/worker.ts', join(directory, 'worker.cjs'), version, []);
  if (raised.size !== 3) throw new Error(`found the versions of ${[...raised.keys()]} only`);
  return join(directory, 'agent.cjs');
}

function newDirectory(): Promise<string> {
  return mkdtemp(join(tmpdir(), 'efs-agent-bundle-'));
}

async function bundle(entry: string, outfile: string, version: string, plugins: Plugin[]): Promise<void> {
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
    define: { __EFS_AGENT_VERSION__: JSON.stringify(version) },
    logLevel: 'warning',
    plugins,
  });
}

/** Removes what `buildBundle` made. */
export async function removeBundle(path: string): Promise<void> {
  await rm(dirname(path), { recursive: true, force: true });
}
