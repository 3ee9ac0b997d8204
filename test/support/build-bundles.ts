import { execFileSync } from 'node:child_process';

/** Builds dist/ once before the tests: they run the programs that users run. */
export default function buildBundles(): void {
  execFileSync(process.execPath, ['scripts/build.mjs'], { stdio: 'inherit' });
}
