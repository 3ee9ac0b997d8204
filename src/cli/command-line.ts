import yargs, { type Argv, type CommandModule } from 'yargs';
import { AgentError, asAgentError } from '../core/errors.ts';
import { findNearest } from '../core/nearest.ts';
import { version } from '../core/version.ts';
import type { Caller } from '../helper/caller.ts';
import { runProgramFor } from '../helper/program.ts';

/** The commands, in the order of the help text. Each is loaded only when it is the one that was given. */
const commands: Record<
  string,
  { describe: string; load: (caller: Caller) => Promise<CommandModule<object, never>> }
> = {
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
  whoami: {
    describe: 'show whose credentials a mount uses, or would use',
    load: async (caller) => untyped((await import('./whoami.ts')).createWhoamiCommand(caller)),
  },
  config: {
    describe: 'show the configuration and where each value comes from',
    load: async (caller) => untyped((await import('./config.ts')).createConfigCommand(caller)),
  },
  doctor: {
    describe: 'look for what keeps a mount from working, and say where',
    load: async (caller) => untyped((await import('./doctor.ts')).createDoctorCommand(caller)),
  },
  bundle: {
    describe: 'write an archive for whoever is asked for help, without secrets',
    load: async (caller) => untyped((await import('./bundle.ts')).createBundleCommand(caller)),
  },
  policy: {
    describe: 'tell what a file-system policy allows to whom',
    load: async (caller) => untyped((await import('./policy.ts')).createPolicyCommand(caller)),
  },
  explain: {
    describe: 'explain an error code: meaning, likely cause, next step',
    load: async (caller) => untyped((await import('./explain.ts')).createExplainCommand(caller)),
  },
  tunnel: {
    describe: 'open a tunnel and mount nothing',
    load: async (caller) => untyped((await import('./tunnel.ts')).createTunnelCommand(caller)),
  },
  'log-level': {
    describe: 'show or change how much the running agent logs',
    load: async (caller) => untyped((await import('./log-level.ts')).createLogLevelCommand(caller)),
  },
  agent: {
    describe: 'run the agent in the foreground',
    load: async (caller) => untyped((await import('./agent.ts')).createAgentCommand(caller)),
  },
  target: {
    describe: 'run a local mount target, to try things without AWS',
    load: async () => untyped((await import('./target.ts')).targetCommand),
  },
  completion: {
    describe: 'print what a shell needs to complete these commands',
    load: async (caller) =>
      untyped((await import('./completion.ts')).createCompletionCommand(caller, () => loadAll(caller))),
  },
};

function loadAll(caller: Caller) {
  return Promise.all(
    Object.entries(commands).map(async ([name, { describe, load }]) => ({
      name,
      describe,
      module: await load(caller),
    })),
  );
}

/** Runs `efs-agent` and gives its exit status. Errors: none; they are explained on stderr. */
export function runCommandLine(argv: readonly string[], caller: Caller): Promise<number> {
  return runProgramFor(caller, async () => {
    try {
      const run = await prepareCommandLine(argv, caller);
      return await run();
    } catch (thrown) {
      throw pointToHelp(asAgentError(thrown), argv);
    }
  });
}

/** Whoever has mistyped an option of a command wants the help of that command. */
function pointToHelp(error: AgentError, argv: readonly string[]): AgentError {
  const name = findCommandName(argv);
  if (error.code !== 'usage' || 'hint' in error.details || name === undefined) return error;
  const hint = `Run efs-agent ${name} --help.`;
  return new AgentError('usage', error.message, { ...error.details, hint }, error);
}

function findCommandName(argv: readonly string[]): string | undefined {
  return argv.find((word) => !word.startsWith('-'));
}

/** What a command line would do, with nothing done yet. Errors: `usage`. */
export async function prepareCommandLine(argv: readonly string[], caller: Caller): Promise<() => unknown> {
  return parseCommandLine(argv, await loadCommand(argv, caller), caller);
}

/** The command that was given, or null: there is none, and yargs says what there is. Errors: `usage`. */
async function loadCommand(argv: readonly string[], caller: Caller): Promise<LoadedCommand | null> {
  const name = findCommandName(argv);
  if (name === undefined) return null;
  if (!Object.hasOwn(commands, name)) {
    const nearest = findNearest(name, Object.keys(commands));
    const meant = nearest === null ? '' : `Did you mean ${nearest}? `;
    throw new AgentError('usage', `unknown command ${name}`, { hint: `${meant}Run efs-agent --help.` });
  }
  return { name, module: await commands[name]!.load(caller) };
}

interface LoadedCommand {
  name: string;
  module: CommandModule<object, never>;
}

/** What to run; only then is it run, so that whatever yargs throws is about the command line. Errors: `usage`. */
function parseCommandLine(
  argv: readonly string[],
  given: LoadedCommand | null,
  caller: Caller,
): () => unknown {
  let shown = '';
  let run: () => unknown = () => caller.writeOut(`${shown}\n`);
  const parser = createParser();
  for (const [name, { describe }] of Object.entries(commands)) {
    if (name !== given?.name) parser.command(name, describe);
    else {
      const { module } = given;
      parser.command({
        ...module,
        describe,
        handler: (parsed) => {
          refuseRepeated(parsed, parser);
          run = () => module.handler(parsed as never);
        },
      });
    }
  }
  try {
    parser.parse(
      argv.flatMap(splitAttachedOptions),
      {},
      (_error: unknown, _parsed: unknown, output: string) => {
        shown = output;
      },
    );
  } catch (thrown) {
    throw new AgentError('usage', asAgentError(thrown).message, {}, thrown);
  }
  return run;
}

function createParser() {
  return yargs()
    .scriptName('efs-agent')
    .usage('$0 <command>\n\nMounts Amazon EFS file systems through its own TLS tunnel. See efs-agent(8).')
    .parserConfiguration({
      'boolean-negation': false,
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
}

/** `-otls`, as mount(8) reads it; yargs would take it for four flags. */
function splitAttachedOptions(word: string): string[] {
  return /^-o[^=]/.test(word) ? ['-o', word.slice(2)] : [word];
}

/** Which of two values holds is nothing to guess. Errors: `usage`. */
function refuseRepeated(parsed: Record<string, unknown>, parser: Argv): void {
  const { array } = (parser as unknown as { getOptions(): { array: string[] } }).getOptions();
  const repeated = Object.keys(parsed).find(
    (name) => /^[a-z0-9-]+$/.test(name) && Array.isArray(parsed[name]) && !array.includes(name),
  );
  if (repeated !== undefined) throw new AgentError('usage', `give --${repeated} only once`);
}

function untyped<T>(command: CommandModule<object, T>): CommandModule<object, never> {
  return command as unknown as CommandModule<object, never>;
}
