import type { CommandModule } from 'yargs';
import { version } from '../core/version.ts';
import type { Caller } from '../helper/caller.ts';
import { readStatuses } from '../helper/status.ts';
import { jsonOption } from './options.ts';
import { renderStatus } from './render.ts';

interface Arguments {
  json: boolean;
}

/** `efs-agent status`: the agent's mounts and tunnels. Never starts an agent. */
export function createStatusCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'status',
    builder: (yargs) => yargs.option('json', jsonOption),
    handler: async ({ json }) => {
      const { own, others } = await readStatuses(caller);
      if (json) {
        const status = own ?? { version, pid: null, mounts: [] };
        const whole = others.length === 0 ? status : { ...status, otherNetworkNamespaces: others };
        caller.writeOut(`${JSON.stringify(whole, null, 2)}\n`);
        return;
      }
      if (own === null) caller.writeOut('the agent is not running; no tunnel is open\n');
      else caller.writeOut(renderStatus(own, Date.now()));
      for (const status of others)
        caller.writeOut(`\nin another network namespace:\n${renderStatus(status, Date.now())}`);
    },
  };
}
