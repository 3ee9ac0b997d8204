import { execFileSync } from 'node:child_process';

/** Builds dist/ once before the tests: they run the programs that users run. Runs side by side share what `./check` has built. */
export default function buildBundles(): void {
  if (process.env['EFS_AGENT_BUILT'] !== undefined) return;
  execFileSync(process.execPath, ['scripts/build.mjs'], { stdio: 'inherit' });
}
