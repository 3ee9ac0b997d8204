import { type Check, ifKnown, pass, skip } from '../check.ts';
import { askMountTarget } from '../client.ts';

/** Whether it is the access point that is refused: the same client is asked for without it. */
export const accessPoint: Check = {
  name: 'access-point',
  layer: 'iam',
  async run(subject) {
    const id = subject.spec?.accessPoint ?? null;
    if (id === null) return skip('none is used');
    const through = await ifKnown(subject.answer());
    if (through === null) return skip('the mount target could not be asked');
    if (through.kind === 'nfs') return pass(`${id} lets this client in`);
    const without = await ifKnown(askMountTarget(subject, null));
    const others = without?.kind === 'nfs' ? 'lets it in without one' : 'refuses it without one too';
    return {
      verdict: 'FAIL',
      evidence: `the mount target refuses this client through ${id}, and ${others}`,
      fix:
        without?.kind === 'nfs'
          ? `Check that ${id} is an access point of this file system, and what the policy says about elasticfilesystem:AccessPointArn.`
          : `Check that ${id} is an access point of this file system, and that the policy allows ClientMount through it.`,
      code: 'access.denied',
    };
  },
};
