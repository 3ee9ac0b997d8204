import type { CommandModule } from 'yargs';
import { parseOptions } from '../core/mount-spec.ts';
import type { Caller } from '../helper/caller.ts';
import { mountFileSystem } from '../helper/mount.ts';
import { checkRoot } from '../helper/program.ts';
import { mountOptions, verboseOption } from './options.ts';

interface Arguments {
  spec: string;
  directory: string;
  o: string[];
  v: boolean;
  f: boolean;
}

/** `efs-agent mount`: what mount.efs does, without mount(8). */
export function createMountCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'mount <spec> <directory>',
    builder: (yargs) =>
      yargs
        .positional('spec', {
          type: 'string',
          demandOption: true,
          describe: 'fs-<id>[:/path], or a DNS name of a file system',
        })
        .positional('directory', { type: 'string', demandOption: true, describe: 'where to mount it' })
        .option('o', mountOptions)
        .option('v', verboseOption)
        .option('f', { type: 'boolean', default: false, describe: 'check everything, mount nothing' }),
    // Its result is the exit status.
    handler: ({ spec, directory, o, v, f }) => {
      checkRoot(caller);
      return mountFileSystem(
        {
          kind: 'mount',
          device: spec,
          mountPoint: directory,
          options: parseOptions(o.join(',')),
          fake: f,
          verbose: v,
          sloppy: false,
        },
        caller,
      ) as Promise<never>;
    },
  };
}
