import { existsSync } from 'node:fs';
import { findProgram, runProgram } from '../../host/programs.ts';
import { type Check, pass, skip, warn } from '../check.ts';

const timeoutMs = 5_000;
const ordering = 'remote-fs-pre.target';

/** Whether systemd knows our units, starts them at boot, and has them before the first remote mount. */
export const systemd: Check = {
  name: 'systemd',
  layer: 'local',
  async run({ caller }) {
    const program = findProgram('systemctl', caller.environment['PATH']);
    if (!existsSync(caller.files.systemd) || program === null)
      return skip('systemd is not process 1 here; a mount starts the agent itself');
    const { end, stdout } = await runProgram(
      program,
      ['show', '--property=LoadState,UnitFileState,Before', 'efs-agent.socket'],
      { timeoutMs, environment: caller.environment },
    );
    if (end.kind !== 'exited' || end.status !== 0) return skip('systemctl does not answer');
    const values = new Map(
      stdout.split('\n').map((line) => [line.split('=')[0], line.slice(line.indexOf('=') + 1)] as const),
    );
    if (values.get('LoadState') !== 'loaded') {
      return warn(
        'efs-agent.socket is not installed: a mount at boot starts the agent itself',
        'Install the package, or run install.sh, and then systemctl enable --now efs-agent.socket.',
      );
    }
    const state = values.get('UnitFileState');
    if (state !== 'enabled')
      return warn(
        `efs-agent.socket is ${state === '' ? 'not enabled' : state}`,
        'systemctl enable --now efs-agent.socket',
      );
    if (!values.get('Before')?.split(' ').includes(ordering)) {
      return warn(
        `efs-agent.socket is not ordered before ${ordering}: a mount at boot may come first`,
        'Take drop-ins of efs-agent.socket away (systemctl cat efs-agent.socket), and systemctl daemon-reload.',
      );
    }
    return pass(`efs-agent.socket is enabled, and before ${ordering}`);
  },
};
