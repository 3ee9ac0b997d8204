import { readEffectiveConfig } from '../../helper/config.ts';
import { type Check, errorOf, pass, warn } from '../check.ts';

/** Whether the configuration files can be read, and what is odd about them. */
export const configuration: Check = {
  name: 'configuration',
  layer: 'local',
  async run({ caller, config, plan, spec }) {
    const broken = await errorOf(config(), 'config');
    if (broken !== null) return broken;
    const { files, warnings } = await readEffectiveConfig(caller);
    // What the files promise and no mount can keep is found when one is planned.
    const promise = spec === null ? null : await errorOf(plan(), 'config');
    if (promise !== null) return promise;
    const from = files.length === 0 ? 'no file: all values are defaults' : files.join(', ');
    return warnings.length === 0
      ? pass(from)
      : warn(`${from}: ${warnings.join('; ')}`, 'Correct the lines that are named, or take them out.');
  },
};
