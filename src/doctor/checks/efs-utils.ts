import { existsSync, readdirSync, readFileSync, realpathSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type Check, type Finding, pass, warn } from '../check.ts';
import type { Places } from '../places.ts';

/** Whether `mount -t efs` is ours, and amazon-efs-utils out of the way. */
export const efsUtils: Check = {
  name: 'efs-utils',
  layer: 'local',
  async run({ places }): Promise<Finding> {
    const helper = places.mountHelpers.find(existsSync);
    const pid = findWatchdog(places);
    const isInstalled = existsSync(places.rivalWatchdog);
    if (helper === undefined)
      return warn('mount -t efs finds no mount.efs', 'Install the package, or run install.sh.');
    if (basename(realpathSync(helper)) !== 'mount-efs.cjs') {
      return {
        verdict: 'FAIL',
        evidence: `mount -t efs runs ${helper}, which is not efs-agent's${isInstalled ? ' but that of amazon-efs-utils' : ''}`,
        fix: 'Remove amazon-efs-utils, or run install.sh --force.',
        code: null,
      };
    }
    if (pid !== null)
      return warn(
        `the watchdog of amazon-efs-utils runs as process ${pid}`,
        'Unmount what it looks after, then: systemctl disable --now amazon-efs-mount-watchdog.',
      );
    return pass(
      `mount -t efs runs efs-agent's ${helper}${isInstalled ? '; amazon-efs-utils is installed and does not run' : ''}`,
    );
  },
};

function findWatchdog({ processes, rivalWatchdog }: Places): string | null {
  const name = basename(rivalWatchdog);
  const pids = readdirSync(processes).filter((entry) => /^\d+$/.test(entry));
  return (
    pids.find((pid) => readWords(join(processes, pid, 'cmdline')).some((word) => basename(word) === name)) ??
    null
  );
}

function readWords(path: string): string[] {
  try {
    return readFileSync(path, 'utf8').split('\0');
  } catch {
    // It has ended.
    return [];
  }
}
