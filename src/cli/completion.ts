import yargs, { type CommandModule } from 'yargs';
import type { Caller } from '../helper/caller.ts';
import { type DescribedCommand, renderCompletion, shells } from './completion-scripts.ts';

interface Arguments {
  shell: (typeof shells)[number];
}

/** A line of the table of commands, loaded. */
export interface LoadedCommand {
  name: string;
  describe: string;
  module: CommandModule<object, never>;
}

/** `efs-agent completion`: what a shell needs to complete command lines, from the very table that parses them. */
export function createCompletionCommand(
  caller: Caller,
  loadAll: () => Promise<LoadedCommand[]>,
): CommandModule<object, Arguments> {
  return {
    command: 'completion <shell>',
    builder: (parser) =>
      parser.positional('shell', {
        choices: shells,
        demandOption: true,
        describe: 'the shell to complete in',
      }),
    handler: async ({ shell }) =>
      caller.writeOut(renderCompletion(shell, (await loadAll()).map(describeCommand))),
  };
}

/** What yargs knows of a command once its builder has run. */
interface YargsKnowledge {
  getOptions(): {
    key: Record<string, unknown>;
    alias: Record<string, string[]>;
    boolean: string[];
    choices: Record<string, string[]>;
    array: string[];
  };
  getInternalMethods(): { getUsageInstance(): { getDescriptions(): Record<string, string | undefined> } };
}

function describeCommand({ name, describe, module }: LoadedCommand): DescribedCommand {
  const parser = yargs().help(false).version(false);
  if (typeof module.builder === 'function') module.builder(parser as never);
  else parser.options(module.builder ?? {});
  const known = parser as unknown as YargsKnowledge;
  const { key, alias, boolean, choices, array } = known.getOptions();
  const descriptions = known.getInternalMethods().getUsageInstance().getDescriptions();
  const words = String(module.command).split(' ').slice(1);
  const positionals = words.map((word) => word.replace(/[<>[\].]/g, ''));
  return {
    name,
    describe,
    positionals: positionals.map((word) => ({ name: word, choices: choices[word] ?? [] })),
    options: Object.keys(key)
      .filter((word) => !positionals.includes(word))
      .map((word) => ({
        names: [word, ...(alias[word] ?? [])],
        describe: descriptions[word] ?? '',
        takesValue: !boolean.includes(word),
        repeatable: array.includes(word),
        choices: choices[word] ?? [],
      })),
  };
}
