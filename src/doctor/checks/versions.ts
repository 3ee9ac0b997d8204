import { version } from '../../core/version.ts';
import { readKernelRelease } from '../../host/own-mounts.ts';
import { type Check, pass, warn } from '../check.ts';

/** package.json, `engines`. */
const oldestNode = [20, 19] as const;

/** What runs here. */
export const versions: Check = {
  name: 'versions',
  layer: 'local',
  async run({ caller }) {
    const evidence = `efs-agent ${version}, Node.js ${process.versions.node}, OpenSSL ${process.versions.openssl}, Linux ${readKernelRelease(caller.files)}`;
    const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
    const isOld = major < oldestNode[0] || (major === oldestNode[0] && minor < oldestNode[1]);
    return isOld ? warn(evidence, `Install Node.js ${oldestNode.join('.')} or newer.`) : pass(evidence);
  },
};
