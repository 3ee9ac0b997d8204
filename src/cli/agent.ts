import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { CommandModule } from 'yargs';
import { AgentError } from '../core/errors.ts';
import type { Caller } from '../helper/caller.ts';

interface Arguments {
  'on-demand': boolean;
}

/** `efs-agent agent`: the agent itself, in this process and in the foreground. */
export function createAgentCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'agent',
    builder: (yargs) =>
      yargs.option('on-demand', {
        type: 'boolean',
        default: false,
        describe: 'leave when nothing has been mounted for a while',
      }),
    handler: async (given) => {
      const bundle = caller.agentBundle();
      if (!existsSync(bundle))
        throw new AgentError('agent.start-failed', `the agent's program ${bundle} does not exist`);
      process.argv = [process.execPath, bundle, ...(given['on-demand'] ? ['--on-demand'] : [])];
      createRequire(bundle)(bundle);
      // The agent ends the process itself.
      await new Promise(() => {});
    },
  };
}
