// The Node that travels inside the packages: upstream's own binary, as the package registry has it, checked before use.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The release we ship on, one of those that ./check tests with; the hashes are those of the registry's archives. */
export const runtime = {
  version: '24.21.0',
  licence: 'MIT',
  integrity: {
    x64: 'sha512-3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==',
    arm64: 'sha512-FpJRPEz2OvvTLfjIOlNGFY9JLPMKgl5m+d4oGYBLg24kJ1mmvN1Zl/HPJgF4HDaJ51ISev1l1cRZ/DM+keXW5g==',
  },
};

const folder = 'out/node/archives';

/**
 * Fetches the archive of a processor, or finds it in out/node, and gives its path.
 *
 * Errors: when its bytes are not the ones that are pinned here.
 */
export function fetchRuntime(processor) {
  const name = `node-linux-${processor}`;
  const archive = join(folder, `${name}-${runtime.version}.tgz`);
  if (!existsSync(archive)) {
    mkdirSync(folder, { recursive: true });
    execFileSync('npm', ['pack', '--silent', '--pack-destination', folder, `${name}@${runtime.version}`], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  }
  const found = `sha512-${createHash('sha512').update(readFileSync(archive)).digest('base64')}`;
  if (found !== runtime.integrity[processor])
    throw new Error(`${archive} is not what was pinned: ${found}; remove it and try again`);
  return archive;
}

/** The bytes of one file of an archive. */
export function readFromRuntime(archive, name) {
  return execFileSync('tar', ['-xzOf', archive, `package/${name}`], { maxBuffer: 1 << 28 });
}
