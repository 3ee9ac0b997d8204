import type { CommandModule } from 'yargs';
import { version } from '../core/version.ts';
import type { Caller } from '../helper/caller.ts';
import { readStatus } from '../helper/status.ts';
import { renderStatus } from './render.ts';

interface Arguments {
  json: boolean;
}

/** `efs-agent status`: the agent's mounts and tunnels. Never starts an agent. */
export function createStatusCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'status',
    builder: (yargs) =>
      yargs.option('json', {
        type: 'boolean',
        default: false,
        describe: 'for programs; the field names are stable',
      }),
    handler: async ({ json }) => {
      const status = await readStatus(caller);
      if (json) caller.writeOut(`${JSON.stringify(status ?? { version, pid: null, mounts: [] }, null, 2)}\n`);
      else if (status === null) caller.writeOut('the agent is not running; no tunnel is open\n');
      else caller.writeOut(renderStatus(status, Date.now()));
    },
  };
}
