import { readFileSync } from 'node:fs';
import { type FstabLine, parseFstab } from '../../core/fstab.ts';
import { parseMountSpec, parseOptions } from '../../core/mount-spec.ts';
import { resolveDirectory } from '../../host/own-mounts.ts';
import { type Check, type Finding, failure, pass, skip, warn } from '../check.ts';
import type { Subject } from '../subject.ts';

/** Whether each line of type efs in fstab can be mounted as it is written, and at the right moment of a boot. */
export const fstab: Check = {
  name: 'fstab',
  layer: 'local',
  async run(subject) {
    const { fstab: path } = subject.places;
    let text: string;
    try {
      text = readFileSync(path, 'utf8');
    } catch (thrown) {
      return skip(`${path} cannot be read: ${(thrown as NodeJS.ErrnoException).code}`);
    }
    const lines = parseFstab(text).filter(({ fsType }) => fsType === 'efs');
    if (lines.length === 0) return skip(`${path} has no line of type efs`);
    return Promise.all(lines.map((line) => judgeLine(line, subject)));
  },
};

/** The first thing that is wrong with a line; the worst first. */
async function judgeLine(line: FstabLine, { caller, places }: Subject): Promise<Finding> {
  const where = `${places.fstab}:${line.number}: ${line.device} on ${line.mountPoint}`;
  const options = line.options.split(',');
  try {
    parseMountSpec(line.device, parseOptions(line.options));
  } catch (thrown) {
    const wrong = failure(thrown);
    return { ...wrong, evidence: `${where}: ${wrong.evidence}` };
  }
  const found = await resolveDirectory(line.mountPoint, caller.limits.lookMs, caller.environment);
  if (found.kind === 'missing')
    return warn(`${where}: the directory does not exist`, `mkdir -p ${line.mountPoint}`);
  if (found.kind !== 'directory')
    return warn(
      `${where}: the mount point ${found.kind === 'silent' ? 'does not answer' : 'is not a directory'}`,
      null,
    );
  if (!options.includes('_netdev') && !options.includes('noauto')) {
    return warn(
      `${where}: without _netdev it is mounted at boot before there is a network`,
      'Add _netdev to its options; and nofail, where the machine shall boot without it.',
    );
  }
  return pass(where);
}
