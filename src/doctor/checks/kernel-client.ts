import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readKernelRelease } from '../../host/own-mounts.ts';
import { type Check, type Finding, pass, warn } from '../check.ts';

/** Whether the kernel can mount NFS 4: built in, loaded, or there to be loaded. */
export const kernelClient: Check = {
  name: 'kernel-client',
  layer: 'local',
  async run({ caller, places }): Promise<Finding> {
    const release = readKernelRelease(caller.files);
    const known = readText(places.filesystems)
      .split('\n')
      .some((line) => line.split('\t').at(-1) === 'nfs4');
    if (known) return pass(`Linux ${release} has an NFS 4 client`);
    const directory = join(places.modules, release);
    if (!existsSync(directory) && existsSync(places.loadedModules)) {
      return warn(
        `nfs4 is not loaded, and the modules of Linux ${release} are not here to look at`,
        'In a container: load it on the host (modprobe nfsv4), unless the first mount has done so.',
      );
    }
    const modules = ['modules.dep', 'modules.builtin'].map((name) => readText(join(directory, name)));
    if (modules.some((text) => /(?:^|\/)nfsv4\.ko/m.test(text)))
      return pass(`Linux ${release} has an NFS 4 client as a module that is loaded when it is needed`);
    return {
      verdict: 'FAIL',
      evidence: `Linux ${release} has no NFS 4 client: nfs4 is neither in ${places.filesystems} nor among the modules in ${places.modules}`,
      fix: "Install the kernel's modules (linux-modules-extra on Ubuntu, kernel-modules on Fedora); a container uses those of its host.",
      code: 'nfs.failed',
    };
  },
};

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
