import { version } from '../../core/version.ts';
import { readStatuses } from '../../helper/status.ts';
import { type Check, pass, warn } from '../check.ts';

/** Whether the agent runs and answers, and is of this version. */
export const agent: Check = {
  name: 'agent',
  layer: 'local',
  async run({ caller }) {
    const { own } = await readStatuses(caller);
    if (own === null) return pass('does not run; the first mount starts it');
    const mounts = `${own.mounts.length} mount${own.mounts.length === 1 ? '' : 's'}`;
    const evidence = `version ${own.version}, pid ${own.pid}, ${mounts}`;
    return own.version === version
      ? pass(evidence)
      : warn(
          `${evidence}; this command is version ${version}`,
          'Put the installed version in its place: systemctl reload efs-agent.',
        );
  },
};
