import { AgentError } from '../../core/errors.ts';
import { version } from '../../core/version.ts';
import { readStatusReport } from '../../helper/status.ts';
import { type Check, failure, pass, warn } from '../check.ts';

/** Whether the agent runs and answers, and is of this version; whether there are mounts that nobody watches. */
export const agent: Check = {
  name: 'agent',
  layer: 'local',
  async run({ caller }) {
    const report = await readStatusReport(caller);
    const mounts = `${report.mounts.length} mount${report.mounts.length === 1 ? '' : 's'}`;
    switch (report.agent) {
      case 'silent':
        return failure(
          new AgentError('agent.unreachable', `the agent accepts connections and does not answer; ${mounts}`),
        );
      case 'absent':
        return report.mounts.length === 0
          ? pass('does not run; the first mount starts it')
          : failure(new AgentError('agent.unreachable', `does not run, and nobody watches ${mounts}`));
      case 'running': {
        const evidence = `version ${report.version}, pid ${report.pid}, ${mounts}`;
        return report.version === version
          ? pass(evidence)
          : warn(
              `${evidence}; this command is version ${version}`,
              'Put the installed version in its place: systemctl reload efs-agent.',
            );
      }
    }
  },
};
