import { findProgram, runProgram } from '../../host/programs.ts';
import { type Check, pass, skip, warn } from '../check.ts';

const timeoutMs = 5_000;

/** Whether somebody keeps the clock right: certificates and signatures are good for minutes around the time. */
export const clock: Check = {
  name: 'clock',
  layer: 'local',
  async run({ caller }) {
    const nowText = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
    const program = findProgram('timedatectl', caller.environment['PATH']);
    if (program === null) return skip(`${nowText}; timedatectl is not here to ask who keeps it`);
    const { end, stdout } = await runProgram(program, ['show', '--property=NTPSynchronized', '--value'], {
      timeoutMs,
      environment: caller.environment,
    });
    if (end.kind !== 'exited' || end.status !== 0) return skip(`${nowText}; timedatectl does not answer`);
    return stdout.trim() === 'yes'
      ? pass(`${nowText}, synchronized`)
      : warn(`${nowText}, not synchronized`, 'Start chronyd or systemd-timesyncd.');
  },
};
