import type { CommandModule } from 'yargs';
import type { Caller } from '../helper/caller.ts';
import { type EffectiveConfig, readEffectiveConfig } from '../helper/config.ts';
import { jsonOption } from './options.ts';

interface Arguments {
  json: boolean;
}

/** `efs-agent config`: the value of each key, where it comes from, and what is odd about the files. */
export function createConfigCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'config',
    builder: (yargs) => yargs.option('json', jsonOption),
    handler: async ({ json }) => {
      const config = await readEffectiveConfig(caller);
      caller.writeOut(json ? `${JSON.stringify(config, null, 2)}\n` : renderConfig(config));
      if (!json) for (const warning of config.warnings) caller.writeError(`${caller.program}: ${warning}\n`);
    },
  };
}

/** The configuration as a file that could be used, with the origin of each value behind it as a comment line. */
export function renderConfig({ files, settings }: EffectiveConfig): string {
  const lines = [`# files: ${files.length === 0 ? 'none, all values are defaults' : files.join(', ')}`];
  const sections = [...new Set(settings.map(({ section }) => section))];
  for (const name of sections) {
    lines.push('', `[${name}]`);
    for (const { section, key, value, origin, status } of settings) {
      if (section !== name) continue;
      const from = origin.kind === 'default' ? 'default' : `${origin.path}:${origin.line}`;
      lines.push(`# ${from}${status === 'no-effect' ? ', has no effect' : ''}`);
      lines.push(value === null ? `#${key} =` : `${key} = ${toFileText(value)}`);
    }
  }
  return `${lines.join('\n')}\n`;
}

function toFileText(value: string): string {
  return value.replaceAll('%', '%%').replace(/\n+/g, '\n  ');
}
