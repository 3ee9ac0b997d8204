import { faults } from '../core/faults.ts';
import { mountOptionNames } from '../core/mount-spec.ts';
import { logLevels } from '../core/ports.ts';

export const shells = ['bash', 'zsh', 'fish'] as const;

/** A command as a shell completes it. */
export interface DescribedCommand {
  name: string;
  describe: string;
  positionals: { name: string; choices: readonly string[] }[];
  options: {
    /** Without dashes. */
    names: string[];
    describe: string;
    takesValue: boolean;
    repeatable: boolean;
    choices: readonly string[];
  }[];
}

type Option = DescribedCommand['options'][number];

/** What may stand at a place: one of some words, or something that the shell looks up. */
type Completed =
  | { kind: 'words'; words: readonly string[] }
  | { kind: 'mount-options' | 'file-systems' | 'mount-points' | 'directories' | 'files' | 'nothing' };

const help: Option = {
  names: ['help', 'h'],
  describe: 'show help',
  takesValue: false,
  repeatable: false,
  choices: [],
};

/** The completion script of a shell, whole. Errors: none. */
export function renderCompletion(
  shell: (typeof shells)[number],
  described: readonly DescribedCommand[],
): string {
  const commands = described.map((command) => ({ ...command, options: [...command.options, help] }));
  return { bash: renderBash, zsh: renderZsh, fish: renderFish }[shell](commands);
}

function ofPositional(
  command: string,
  { name, choices }: DescribedCommand['positionals'][number],
): Completed {
  if (choices.length > 0) return { kind: 'words', words: choices };
  if (name === 'code') return { kind: 'words', words: Object.keys(faults) };
  if (name === 'level') return { kind: 'words', words: [...logLevels, 'default'] };
  if (name === 'spec') return { kind: 'file-systems' };
  if (name === 'directory') return { kind: command === 'mount' ? 'directories' : 'mount-points' };
  return { kind: name === 'file' ? 'files' : 'nothing' };
}

function ofValue({ names, choices, repeatable }: Option): Completed {
  if (choices.length > 0) return { kind: 'words', words: choices };
  if (names.includes('o')) return { kind: repeatable ? 'mount-options' : 'files' };
  if (names.some((name) => name.endsWith('dir'))) return { kind: 'directories' };
  return {
    kind: names.some((name) => ['policy', 'events'].includes(name)) ? 'files' : 'nothing',
  };
}

// Neither needs the agent: completing must not start it.
const fileSystems = `awk '$3 == "efs" { sub(/:.*/, "", $1); print $1 }' /etc/fstab 2>/dev/null`;
const mountPoints = `awk '$3 ~ /^nfs4?$/ { print $2 }' /proc/self/mounts 2>/dev/null`;

const dashed = (name: string) => (name.length === 1 ? `-${name}` : `--${name}`);

function renderBash(commands: readonly DescribedCommand[]): string {
  const names = commands.map(({ name }) => name).join(' ');
  const list = (words: string) => `mapfile -t COMPREPLY < <(compgen -W "${words}" -- "$cur")`;
  const complete = (what: Completed): string => {
    switch (what.kind) {
      case 'words':
        return list(what.words.join(' '));
      case 'file-systems':
        return list(
          `$(${fileSystems.replaceAll('"', '\\"').replaceAll('$1', '\\$1').replaceAll('$3', '\\$3')})`,
        );
      case 'mount-points':
        return list(`$(${mountPoints.replaceAll('$2', '\\$2').replaceAll('$3', '\\$3')})`);
      case 'mount-options':
        return '_efs_agent_mount_options';
      case 'directories':
        return 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur")';
      case 'files':
        return 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur")';
      case 'nothing':
        return ':';
    }
  };
  const withValue = commands.flatMap(({ name, options }) =>
    options
      .filter(({ takesValue }) => takesValue)
      .flatMap((option) => option.names.map((word) => ({ word: `"${name} ${dashed(word)}"`, option }))),
  );
  // compgen -W expands its words once more, so that names from outside must not go through it.
  return `# bash completion for efs-agent
_efs_agent_lines() {
  local line
  while IFS= read -r line; do
    [[ $line != "$cur"* ]] || COMPREPLY+=("$line")
  done
}

_efs_agent_mount_options() {
  local before=
  [[ $cur != *,* ]] || before=\${cur%,*},
  mapfile -t COMPREPLY < <(compgen -P "$before" -W "${mountOptionNames.join(' ')}" -- "\${cur##*,}")
  compopt -o nospace
}

_efs_agent() {
  local cur=\${COMP_WORDS[COMP_CWORD]} command='' place=-1 value='' word
  COMPREPLY=()
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    if [[ -n $value ]]; then value=''; continue; fi
    case "$command $word" in
      ${withValue.map(({ word }) => word).join(' | ')}) value="$command $word" ;;
      *' -'*) ;;
      *) [[ -n $command ]] || command=$word; place=$((place + 1)) ;;
    esac
  done
  case $value in
    '') ;;
${withValue
  .filter(({ option }) => ofValue(option).kind !== 'nothing')
  .map(({ word, option }) => `    ${word}) ${complete(ofValue(option))}; return ;;`)
  .join('\n')}
    *) return ;;
  esac
  if [[ -z $command ]]; then
    ${list(`${names} --help --version`)}
    return
  fi
  if [[ $cur == -* ]]; then
    case $command in
${commands
  .map(
    ({ name, options }) =>
      `      ${name}) ${list(options.flatMap((option) => option.names.map(dashed)).join(' '))} ;;`,
  )
  .join('\n')}
    esac
    return
  fi
  case "$command $place" in
${commands
  .flatMap(({ name, positionals }) =>
    positionals
      .map((positional) => ofPositional(name, positional))
      .map((what, index) => `    "${name} ${index}") ${complete(what)} ;;`),
  )
  .join('\n')}
  esac
}
complete -F _efs_agent efs-agent
`;
}

function renderZsh(commands: readonly DescribedCommand[]): string {
  const quote = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
  const protect = (text: string) => text.replaceAll(/[[\]:\\]/g, '\\$&');
  const action = (what: Completed): string =>
    ({
      words: `(${what.kind === 'words' ? what.words.join(' ') : ''})`,
      'mount-options': '_efs_agent_mount_options',
      'file-systems': '_efs_agent_file_systems',
      'mount-points': '_efs_agent_mount_points',
      directories: '_files -/',
      files: '_files',
      nothing: ' ',
    })[what.kind];
  const specify = (option: Option) => {
    const once = option.repeatable ? '*' : `(${option.names.map(dashed).join(' ')})`;
    const value = option.takesValue ? `:value:${action(ofValue(option))}` : '';
    return option.names.map((name) => quote(`${once}${dashed(name)}[${protect(option.describe)}]${value}`));
  };
  const cases = commands.map(({ name, options, positionals }) => {
    const words = [
      ...options.flatMap(specify),
      ...positionals.map((positional, index) =>
        quote(`${index + 1}:${positional.name}:${action(ofPositional(name, positional))}`),
      ),
    ];
    return `        ${name}) _arguments ${words.join(' \\\n          ')} ;;`;
  });
  return `#compdef efs-agent
_efs_agent_mount_options() {
  compset -P '*,'
  compadd -S '' -- ${mountOptionNames.join(' ')}
}
_efs_agent_file_systems() {
  compadd -- \${(f)"$(${fileSystems})"}
}
_efs_agent_mount_points() {
  compadd -- \${(f)"$(${mountPoints})"}
}
_efs_agent() {
  local context state line
  _arguments -C '(- *)'{-h,--help}'[show help]' '(- *)--version[show the version]' \\
    '1:command:->command' '*::argument:->argument'
  case $state in
    command)
      local -a commands=(
${commands.map(({ name, describe }) => `        ${quote(`${name}:${protect(describe)}`)}`).join('\n')}
      )
      _describe command commands
      ;;
    argument)
      case $line[1] in
${cases.join('\n')}
      esac
      ;;
  esac
}
if [[ $funcstack[1] = _efs-agent ]]; then _efs_agent "$@"; else compdef _efs_agent efs-agent; fi
`;
}

function renderFish(commands: readonly DescribedCommand[]): string {
  const quote = (text: string) => `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
  const offer = (what: Completed): string =>
    ({
      words: `-xa ${quote(what.kind === 'words' ? what.words.join(' ') : '')}`,
      'mount-options': `-xa '(__efs_agent_mount_options)'`,
      'file-systems': `-xa '(__efs_agent_file_systems)'`,
      'mount-points': `-xa '(__efs_agent_mount_points)'`,
      directories: `-xa '(__fish_complete_directories)'`,
      files: '-rF',
      nothing: '-x',
    })[what.kind];
  const lines = commands.flatMap(({ name, describe, options, positionals }) => {
    const seen = `complete -c efs-agent -n '__efs_agent_given ${name}'`;
    return [
      `complete -c efs-agent -n '__efs_agent_given' -a ${name} -d ${quote(describe)}`,
      ...options.map((option) => {
        const words = option.names.map((word) => `-${word.length === 1 ? 's' : 'l'} ${word}`).join(' ');
        return `${seen} ${words}${option.takesValue ? ` ${offer(ofValue(option))}` : ''} -d ${quote(option.describe)}`;
      }),
      ...positionals
        .map((positional) => ofPositional(name, positional))
        .filter(({ kind }) => kind !== 'nothing')
        .map((what) => `${seen} ${what.kind === 'files' ? '-F' : offer(what).replace('-xa', '-a')}`),
    ];
  });
  return `# fish completion for efs-agent
function __efs_agent_given
    set -l words (commandline -opc)
    for word in $words[2..]
        string match -q -- '-*' $word; and continue
        test "$word" = "$argv[1]"
        return
    end
    test -z "$argv[1]"
end
function __efs_agent_mount_options
    set -l before (commandline -ct | string replace -r '[^,]*$' '')
    printf "$before%s\\n" ${mountOptionNames.join(' ')}
end
function __efs_agent_file_systems
    ${fileSystems}
end
function __efs_agent_mount_points
    ${mountPoints}
end
complete -c efs-agent -f
complete -c efs-agent -n '__efs_agent_given' -s h -l help -d 'show help'
complete -c efs-agent -n '__efs_agent_given' -l version -d 'show the version'
${lines.join('\n')}
`;
}
