import { type Check, errorOf, ifKnown, pass, skip, warn } from '../check.ts';

/** Whether region and zone are known, and the mount target of a zone that was named is in that of this machine. */
export const region: Check = {
  name: 'region',
  layer: 'local',
  async run(subject) {
    const unknown = await errorOf(subject.region(), 'region', 'zone');
    if (unknown !== null) return unknown;
    const name = await ifKnown(subject.region());
    if (name === null) return skip('depends on the configuration');
    const named = subject.spec?.zone ?? null;
    const own = await ifKnown(subject.zone());
    const where = [
      name,
      ...(named === null ? [] : [`zone ${named}`]),
      ...(own === null ? [] : [`this machine in ${own}`]),
    ];
    return named === null || own === null || named === own
      ? pass(where.join(', '))
      : warn(
          where.join(', '),
          `Leave az out, or write az=${own}: what crosses zones is slower, and is charged for.`,
        );
  },
};
