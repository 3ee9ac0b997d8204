import { type Check, errorOf, ifKnown, pass, skip } from '../check.ts';

/** Whether what is to be mounted, with its options, makes sense here. */
export const specification: Check = {
  name: 'specification',
  layer: 'local',
  async run({ spec, plan }) {
    if (spec === null) return skip('no file system was named');
    const wrong = await errorOf(plan(), 'spec', 'option', 'access-point', 'metadata', 'internal');
    if (wrong !== null) return wrong;
    const planned = await ifKnown(plan());
    if (planned === null) return skip('depends on configuration, region or trust');
    const options = [spec.tls ? 'tls' : 'without tls', ...(spec.iam ? ['iam'] : []), spec.accessPoint];
    return pass(`${planned.fileSystemId}:${spec.path}, ${options.filter(Boolean).join(', ')}`);
  },
};
