import { resolve } from 'node:path';
import type { CommandModule } from 'yargs';
import { pickEnvironment, protocolVersion } from '../core/control-protocol.ts';
import type { IdentityFacts } from '../core/identity-protocol.ts';
import type { Caller } from '../helper/caller.ts';
import { converse, receiveAnswer } from '../helper/conversation.ts';
import { checkRoot } from '../helper/program.ts';
import { openAgent } from '../helper/start-agent.ts';
import { jsonOption } from './options.ts';
import { formatDuration } from './render.ts';

interface Arguments {
  directory: string | undefined;
  region: string | undefined;
  json: boolean;
}

/** `efs-agent whoami`: whose credentials a mount uses, or one made here and now with `iam` would use. */
export function createWhoamiCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'whoami [directory]',
    builder: (yargs) =>
      yargs
        .positional('directory', { type: 'string', describe: 'a mount point; without one: the caller' })
        .option('region', { type: 'string', describe: 'region to ask in [default: as for a mount]' })
        .option('json', jsonOption),
    handler: async ({ directory, region, json }) => {
      checkRoot(caller);
      const mountPoint = directory === undefined ? null : resolve(caller.workingDirectory, directory);
      const agent = await openAgent(caller);
      const { identity } = await converse(agent, caller, async () => {
        agent.send({
          kind: 'whoami',
          version: protocolVersion,
          mountPoint,
          region: region ?? null,
          environment: pickEnvironment(caller.environment),
        });
        return receiveAnswer(agent, 'identity', caller.limits.silenceMs);
      });
      caller.writeOut(json ? `${JSON.stringify(identity, null, 2)}\n` : renderIdentity(identity, Date.now()));
    },
  };
}

/**
 * Whose credentials they are and where from, for a person; never a secret.
 *
 * @param nowMs epoch milliseconds.
 */
export function renderIdentity(identity: IdentityFacts | null, nowMs: number): string {
  if (identity === null) return 'anonymous (without the option iam)\n';
  const { arn, accessKeyId, source, expiresAtMs } = identity;
  const expiry =
    expiresAtMs === null
      ? 'never'
      : `${new Date(expiresAtMs).toISOString()} (in ${formatDuration(expiresAtMs - nowMs)})`;
  const rows = [
    ['arn', arn ?? 'not known'],
    ['access key', accessKeyId],
    ['source', source],
    ['expires', expiry],
  ];
  return rows.map(([name, value]) => `${name!.padEnd(10)}  ${value!.replace(/\p{C}/gu, '?')}\n`).join('');
}
