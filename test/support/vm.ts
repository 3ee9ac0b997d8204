import { test } from 'vitest';
import { ensureVm, VmUnavailable } from '../../scripts/vm/machine.mjs';

export { openVm, type Vm } from '../../scripts/vm/machine.mjs';

/** Builds image and saved machine the first time; gives the reason where this host can have none. */
async function findObstacle(): Promise<string | undefined> {
  try {
    await ensureVm((line) => console.log(`virtual machine: ${line}`));
    return undefined;
  } catch (error) {
    // Anything else is a failure, not a reason to skip.
    if (error instanceof VmUnavailable) return error.message;
    throw error;
  }
}

const obstacle = await findObstacle();
if (obstacle !== undefined) console.warn(`SKIPPED: the tests that need a kernel NFS client: ${obstacle}`);

/** Like `test`, for what needs a virtual machine: skipped, with the reason printed, only where there can be none. */
export const testInVm = test.skipIf(obstacle !== undefined);
