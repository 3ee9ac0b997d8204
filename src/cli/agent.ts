import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import type { CommandModule } from 'yargs';
import { protocolVersion } from '../core/control-protocol.ts';
import { AgentError } from '../core/errors.ts';
import type { Caller } from '../helper/caller.ts';
import { converse, receiveAnswer } from '../helper/conversation.ts';
import { findAgent } from '../helper/start-agent.ts';

interface Arguments {
  'on-demand': boolean;
  takeover: boolean;
  container: boolean;
  grace: number;
}

/** `efs-agent agent`: the agent itself, in this process and in the foreground. */
export function createAgentCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'agent',
    builder: (yargs) =>
      yargs
        .option('on-demand', {
          type: 'boolean',
          default: false,
          describe: 'leave when nothing has been mounted for a while',
        })
        .option('takeover', {
          type: 'boolean',
          default: false,
          describe: 'put this build in the place of the running agent, without closing a listener',
        })
        .option('container', {
          type: 'boolean',
          default: false,
          describe: 'be the main program of a container: serve mounts after SIGTERM until they are gone',
        })
        .option('grace', {
          type: 'number',
          default: 20,
          describe: 'with --container: for so many seconds at most',
        }),
    handler: async (given) => {
      if (!(Number.isInteger(given.grace) && given.grace >= 0 && given.grace < 1_000_000))
        throw new AgentError('usage', '--grace must be a whole number of seconds');
      if (given.container && (given['on-demand'] || given.takeover))
        throw new AgentError('usage', '--container goes with neither --on-demand nor --takeover');
      const bundle = caller.agentBundle();
      if (!existsSync(bundle))
        throw new AgentError('agent.start-failed', `the agent's program ${bundle} does not exist`);
      if (given.takeover && (await takeOverRunningAgent(bundle, caller))) return;
      process.argv = [
        process.execPath,
        bundle,
        ...(given['on-demand'] ? ['--on-demand'] : []),
        ...(given.container ? [`--container=${given.grace}`] : []),
      ];
      createRequire(bundle)(bundle);
      // The agent ends the process itself.
      await new Promise(() => {});
    },
  };
}

/** Longest time a takeover may take: mounts that are under way are waited for. */
const takeoverMs = 60_000;

/** False when no agent runs: there is nothing to take over. Errors: `agent.start-failed`; the old agent goes on then. */
async function takeOverRunningAgent(bundle: string, caller: Caller): Promise<boolean> {
  const agent = await findAgent(caller);
  if (agent === null) return false;
  await converse(agent, caller, async () => {
    agent.send({ kind: 'takeover', version: protocolVersion, program: bundle });
    const { pid } = await receiveAnswer(agent, 'taken-over', takeoverMs);
    caller.writeOut(`the agent is now process ${pid}\n`);
  });
  return true;
}
