import { findMountProgram, runMountProgram } from '../../helper/nfs-program.ts';
import { type Check, pass } from '../check.ts';

const timeoutMs = 5_000;

/** Whether mount.nfs4 is there and can be run. */
export const mountProgram: Check = {
  name: 'mount-program',
  layer: 'local',
  async run({ caller }) {
    const program = findMountProgram(caller);
    const { stdout, stderr } = await runMountProgram(program, ['-V'], timeoutMs, caller);
    const version = /\d+(?:\.\d+)+/.exec(stdout + stderr)?.[0];
    return pass(version === undefined ? program : `${program}, version ${version}`);
  },
};
