import type { CommandModule } from 'yargs';
import { type LogLevelState, protocolVersion } from '../core/control-protocol.ts';
import { parseDuration } from '../core/duration.ts';
import { AgentError } from '../core/errors.ts';
import { type LogLevel, logLevels } from '../core/ports.ts';
import type { Caller } from '../helper/caller.ts';
import { converse, receiveAnswer } from '../helper/conversation.ts';
import { findAgent } from '../helper/start-agent.ts';
import { jsonOption } from './options.ts';

interface Arguments {
  level: string | undefined;
  for: string | undefined;
  json: boolean;
}

/** `efs-agent log-level`: shows how much the running agent logs, or changes it. */
export function createLogLevelCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'log-level [level]',
    builder: (yargs) =>
      yargs
        .positional('level', {
          type: 'string',
          describe: `${logLevels.join(', ')}, or default: the one of the configuration`,
        })
        .option('for', { type: 'string', describe: 'go back after so long, such as 10m' })
        .option('json', jsonOption),
    handler: async ({ level, for: duration, json }) => {
      const state = await askLogLevel(parseChange(level, duration), caller);
      caller.writeOut(json ? `${JSON.stringify(state)}\n` : describeLevel(state));
    },
  };
}

/** Errors: `usage`. */
function parseChange(
  level: string | undefined,
  duration: string | undefined,
): { level: LogLevel | null; forMs: number | null } | null {
  const forMs = duration === undefined ? null : parseDuration(duration, '--for');
  if (level === undefined) {
    if (forMs !== null) throw new AgentError('usage', '--for goes with a level');
    return null;
  }
  if (level === 'default') return { level: null, forMs: null };
  const known = logLevels.find((name) => name === level);
  if (known === undefined)
    throw new AgentError('usage', `"${level}" is not a log level: ${logLevels.join(', ')}, default`);
  return { level: known, forMs };
}

/** Errors: `agent.unreachable` when no agent runs: none is started for it. */
async function askLogLevel(change: ReturnType<typeof parseChange>, caller: Caller): Promise<LogLevelState> {
  const agent = await findAgent(caller);
  if (agent === null) throw new AgentError('agent.unreachable', 'the agent is not running');
  return converse(agent, caller, async () => {
    agent.send({ kind: 'log-level', version: protocolVersion, change });
    return (await receiveAnswer(agent, 'log-level', caller.limits.closeMs)).state;
  });
}

function describeLevel({ level, configured, untilMs }: LogLevelState): string {
  if (level === configured) return `the log level is ${level}, as configured\n`;
  const end = untilMs === null ? 'until the agent is restarted' : `until ${new Date(untilMs).toISOString()}`;
  return `the log level is ${level} ${end}; configured is ${configured}\n`;
}
