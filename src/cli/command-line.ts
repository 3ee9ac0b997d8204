import yargs, { type CommandModule } from 'yargs';
import { AgentError } from '../core/errors.ts';
import { version } from '../core/version.ts';
import type { Caller } from '../helper/caller.ts';
import { runProgramFor } from '../helper/program.ts';

/** The commands, in the order of the help text. Each is loaded only when it is the one that was given. */
const commands: Record<string, { describe: string; load: (caller: Caller) => Promise<CommandModule<object, never>> }> = {
  mount: {
    describe: 'mount a file system, as mount -t efs does',
    load: async (caller) => untyped((await import('./mount.ts')).createMountCommand(caller)),
  },
  umount: {
    describe: 'unmount a file system and close its tunnel',
    load: async (caller) => untyped((await import('./umount.ts')).createUmountCommand(caller)),
  },
  status: {
    describe: 'show the mounts, their tunnels and their identities',
    load: async (caller) => untyped((await import('./status.ts')).createStatusCommand(caller)),
  },
  tunnel: {
    describe: 'open a tunnel and mount nothing',
    load: async (caller) => untyped((await import('./tunnel.ts')).createTunnelCommand(caller)),
  },
  agent: {
    describe: 'run the agent in the foreground',
    load: async (caller) => untyped((await import('./agent.ts')).createAgentCommand(caller)),
  },
};

/** Runs `efs-agent` and gives its exit status. Errors: none; they are explained on stderr. */
export function runCommandLine(argv: readonly string[], caller: Caller): Promise<number> {
  return runProgramFor(caller, async () => {
    let shown = '';
    const parser = await createParser(argv, caller);
    try {
      await parser.parseAsync([...argv], {}, (_error: unknown, _given: unknown, output: string) => {
        shown += output;
      });
    } catch (thrown) {
      if (thrown instanceof AgentError) throw thrown;
      if (thrown instanceof Error && thrown.name === 'YError') throw new AgentError('usage', oneLine(thrown.message), {}, thrown);
      throw thrown;
    }
    if (shown !== '') caller.writeOut(`${shown}\n`);
  });
}

async function createParser(argv: readonly string[], caller: Caller) {
  const parser = yargs()
    .scriptName('efs-agent')
    .usage('$0 <command>\n\nMounts Amazon EFS file systems through its own TLS tunnel. See efs-agent(8).')
    .parserConfiguration({
      'boolean-negation': false,
      'camel-case-expansion': false,
      'dot-notation': false,
      'duplicate-arguments-array': true,
      'parse-numbers': false,
      'parse-positional-numbers': false,
    })
    .version(version)
    .help('help')
    .alias('h', 'help')
    .detectLocale(false)
    .wrap(80)
    .strict()
    .demandCommand(1, 1, 'give a command', 'give one command')
    .exitProcess(false)
    .fail(false);
  const given = argv.find((word) => !word.startsWith('-'));
  for (const [name, { describe, load }] of Object.entries(commands)) {
    parser.command(name === given ? { ...(await load(caller)), describe } : { command: name, describe, handler: () => {} });
  }
  return parser;
}

function untyped<T>(command: CommandModule<object, T>): CommandModule<object, never> {
  return command as unknown as CommandModule<object, never>;
}

function oneLine(text: string): string {
  return text.trim().replace(/\s*\n\s*/g, '; ');
}
