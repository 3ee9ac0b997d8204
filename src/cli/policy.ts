import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { CommandModule } from 'yargs';
import { AgentError } from '../core/errors.ts';
import type { Caller } from '../helper/caller.ts';
import {
  type ClientAction,
  clientActions,
  type DecidedBy,
  decidePermissions,
  parsePolicy,
} from '../target/policy.ts';
import { type PolicyQuestion, parsePolicyQuestion } from '../target/policy-question.ts';
import { createPaint } from './paragraph.ts';

interface Arguments extends Omit<PolicyQuestion, 'sourceIp'> {
  file: string;
  'source-ip': string | undefined;
  json: boolean;
}

/** The status of a mount that is refused: mount(8). */
const mountFailure = 32;

/** `efs-agent policy check`: what a file-system policy allows to a client, decided as the local mount target does. */
export function createPolicyCommand(caller: Caller): CommandModule<object, Arguments> {
  const text = { type: 'string' } as const;
  return {
    command: 'policy <check> <file>',
    builder: (yargs) =>
      yargs
        .positional('check', {
          ...text,
          choices: ['check'],
          demandOption: true,
          describe: 'the one thing to do',
        })
        .positional('file', { ...text, demandOption: true, describe: 'the policy, as JSON' })
        .option('as', {
          ...text,
          demandOption: true,
          describe: 'who asks: anonymous, or the ARN of a role, a session of one, or a user',
        })
        .option('accesspoint', { ...text, describe: 'id or ARN of the access point that is mounted through' })
        .option('filesystem', {
          ...text,
          describe: 'id or ARN of the file system [default: the one each Resource names]',
        })
        .option('region', {
          ...text,
          default: caller.environment['AWS_REGION'] ?? caller.environment['AWS_DEFAULT_REGION'],
          describe: 'region of an id that is no ARN',
        })
        .option('account', { ...text, describe: 'account of an id that is no ARN [default: that of --as]' })
        .option('source-ip', { ...text, describe: 'address of the client [default: none, no aws:SourceIp]' })
        .option('tls', { type: 'boolean', default: true, describe: '--tls=false for plain NFS' })
        .option('json', {
          type: 'boolean',
          default: false,
          describe: 'for programs; the field names are stable',
        }),
    // Its result is the exit status.
    handler: async (given) => {
      const request = parsePolicyQuestion({ ...given, sourceIp: given['source-ip'] });
      const policy = parsePolicy(await readPolicyFile(resolve(caller.workingDirectory, given.file)));
      const { permissions, decidedBy } = decidePermissions(policy, request);
      if (given.json) caller.writeOut(`${JSON.stringify({ request, permissions, decidedBy }, null, 2)}\n`);
      else {
        const paint = createPaint(caller);
        const width = Math.max(...clientActions.map((action) => action.length));
        const row = (action: ClientAction) => {
          const holds = permissions[action];
          const verdict = paint(holds ? 'green' : 'red', holds ? 'allowed' : 'denied ');
          return `${action.padEnd(width)}  ${verdict}  ${renderReason(decidedBy[action])}\n`;
        };
        caller.writeOut(clientActions.map(row).join(''));
      }
      return (permissions.ClientMount ? 0 : mountFailure) as never;
    },
  };
}

/** Errors: `config.unreadable`. */
async function readPolicyFile(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    throw new AgentError(
      'config.unreadable',
      `cannot read the policy ${path}: ${code}`,
      { hint: 'Name a file that can be read.' },
      cause,
    );
  }
}

function renderReason(decided: DecidedBy): string {
  switch (decided.kind) {
    case 'no-policy':
      return 'there is no policy';
    case 'no-statement':
      return 'no statement allows it';
    case 'mount-not-allowed':
      return 'a statement allows it, but it means nothing without ClientMount';
    case 'statement':
      return `${decided.name} (line ${decided.line}): ${decided.effect}`;
  }
}
