import { type Check, errorOf, ifKnown, pass, skip } from '../check.ts';

/** Whether region and zone are known. */
export const region: Check = {
  name: 'region',
  layer: 'local',
  async run(subject) {
    const unknown = await errorOf(subject.region(), 'region', 'zone');
    if (unknown !== null) return unknown;
    const name = await ifKnown(subject.region());
    if (name === null) return skip('depends on the configuration');
    const zone = subject.spec?.zone ?? null;
    return pass(zone === null ? name : `${name}, zone ${zone}`);
  },
};
