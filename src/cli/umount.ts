import type { CommandModule } from 'yargs';
import type { Caller } from '../helper/caller.ts';
import { checkRoot } from '../helper/program.ts';
import { unmountFileSystem } from '../helper/umount.ts';

interface Arguments {
  directory: string;
  f: boolean;
  l: boolean;
  v: boolean;
}

/** `efs-agent umount`: unmounts, and closes the tunnel at once instead of when the agent notices. */
export function createUmountCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'umount <directory>',
    builder: (yargs) =>
      yargs
        .positional('directory', { type: 'string', demandOption: true, describe: 'the mount point' })
        .option('f', { type: 'boolean', default: false, describe: 'force, when the mount target is gone' })
        .option('l', {
          type: 'boolean',
          default: false,
          describe: 'lazy: detach now, clean up when no longer busy',
        })
        .option('v', { type: 'boolean', default: false, describe: 'say what is done' }),
    handler: async ({ directory, f, l, v }) => {
      checkRoot(caller);
      await unmountFileSystem(
        { kind: 'umount', mountPoint: directory, force: f, lazy: l, verbose: v, readOnly: false },
        caller,
      );
    },
  };
}
