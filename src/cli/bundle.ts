import { hostname } from 'node:os';
import { resolve } from 'node:path';
import type { CommandModule } from 'yargs';
import { writeEvidence } from '../doctor/evidence.ts';
import { systemPlaces } from '../doctor/places.ts';
import type { Caller } from '../helper/caller.ts';
import { checkRoot } from '../helper/program.ts';

interface Arguments {
  o: string | undefined;
}

/** `efs-agent bundle`: an archive for whoever is asked for help, without secrets. */
export function createBundleCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'bundle',
    builder: (yargs) =>
      yargs.option('o', {
        type: 'string',
        nargs: 1,
        describe: 'the file to write [default: efs-agent-<host>-<time>.tar.gz here]',
      }),
    handler: async ({ o }) => {
      checkRoot(caller);
      const stamp = new Date().toISOString().replace(/[-:]|\.\d+/g, '');
      const name = `efs-agent-${hostname()}-${stamp}`;
      const file = resolve(caller.workingDirectory, o ?? `${name}.tar.gz`);
      await writeEvidence(file, name, caller, systemPlaces);
      caller.writeOut(`${file}\n`);
    },
  };
}
