import { faults } from '../../core/faults.ts';
import { type Check, failure, ifKnown, pass, skip, warn } from '../check.ts';

/** Whether the mount target accepts connections; how it does not says where to look. */
export const tcp: Check = {
  name: 'tcp',
  layer: 'tcp',
  async run({ spec, reached }) {
    if (spec === null) return skip('no file system was named');
    const all = await ifKnown(reached());
    if (all === null) return skip('no address is known');
    const answering = all.filter(({ error }) => error === null);
    const [failed] = all.filter(({ error }) => error !== null);
    const list = answering.map(
      ({ endpoint, elapsedMs }) => `${endpoint.address} port ${endpoint.port} in ${elapsedMs} ms`,
    );
    if (failed === undefined) return pass(`connected to ${list.join(', ')}`);
    if (answering.length === 0) return failure(failed.error);
    return warn(`connected to ${list.join(', ')}; ${failed.error!.message}`, faults[failed.error!.code].hint);
  },
};
