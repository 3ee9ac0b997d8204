// What the scripts share that write a page of docs/ from a table in src/.
import { writeFileSync } from 'node:fs';
import { build } from 'esbuild';

/** The exports of a TypeScript module. */
export async function loadModule(path) {
  const { outputFiles } = await build({
    entryPoints: [path],
    bundle: true,
    format: 'esm',
    platform: 'node',
    write: false,
  });
  return import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString('base64')}`);
}

/** Writes the page, or with `--print` prints it. */
export function writePage(path, lines) {
  const page = lines.join('\n');
  if (process.argv.includes('--print')) process.stdout.write(page);
  else writeFileSync(path, page);
}
