import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runCommandLine } from '../../src/cli/command-line.ts';
import { openHelperStage } from '../helper/stage.ts';

const dist = resolve(import.meta.dirname, '../../dist');
const scripts = {
  bash: join(dist, 'completions/efs-agent'),
  zsh: join(dist, 'completions/_efs-agent'),
  fish: join(dist, 'completions/efs-agent.fish'),
};
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'efs-completion-'));
  writeFileSync(join(folder, 'capture.zsh'), zshCapture);
  writeFileSync(join(folder, 'setup.zsh'), zshSetup);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What the zsh on a terminal of its own does first: note what is offered, and end when all is. */
const zshSetup = `
PS1= ; unset zle_bracketed_paste; fpath=($completions $fpath)
autoload -U compinit; compinit -u -d $folder/dump
compadd() {
  # Calls that only fill arrays offer nothing.
  if [[ "\${@[1,(i)(-|--)]}" == *-[a-zA-Z]#[OAD]\\ * ]]; then builtin compadd "$@"; return; fi
  local -a found; builtin compadd -O found "$@"; print -rl -- $found >> $folder/found
  builtin compadd "$@"
}
finish() { print > $folder/done; exit }
comppostfuncs=(finish)
print > $folder/ready
`;

/** Types a line there, presses Tab, and prints what was offered. */
const zshCapture = `
setopt extended_glob; zmodload zsh/zpty; export completions=$2 folder=$3
wait_for() { for _ in {1..400}; do zpty -r -t child output; [[ ! -e $folder/$1 ]] || return; sleep 0.1; done }
print -n > $folder/found; zpty child zsh -f -i -o extended_glob
zpty -w child "source $folder/setup.zsh"; wait_for ready
zpty -w -n child "$1"$'\\t'; wait_for done
zpty -d child; cat $folder/found
`;

const capture: Record<keyof typeof scripts, (line: string) => string> = {
  bash: (line) => {
    const words = line.split(' ');
    const quoted = words.map((word) => `'${word}'`).join(' ');
    const ask = `compopt() { :; }; source ${scripts.bash}; COMP_WORDS=(${quoted}); COMP_CWORD=${words.length - 1}; _efs_agent; printf '%s\\n' "\${COMPREPLY[@]}"`;
    return execFileSync('bash', ['--norc', '-c', ask], { encoding: 'utf8', cwd: folder });
  },
  fish: (line) =>
    execFileSync('fish', ['--no-config', '-c', `source ${scripts.fish}; complete -C '${line}'`], {
      encoding: 'utf8',
      cwd: folder,
      env: { ...process.env, HOME: folder },
    }),
  zsh: (line) => {
    for (const name of ['ready', 'done']) rmSync(join(folder, name), { force: true });
    return execFileSync('zsh', ['-f', join(folder, 'capture.zsh'), line, join(dist, 'completions'), folder], {
      encoding: 'utf8',
    });
  },
};
const offers = (shell: keyof typeof scripts, line: string) =>
  capture[shell](line)
    .split('\n')
    .map((offer) => offer.split('\t')[0]!.trim())
    .filter((offer) => offer !== '');

/** Inside this process: a dozen starts of Node would take longer than all the rest. */
async function help(...argv: string[]): Promise<string> {
  const stage = openHelperStage();
  const caller = stage.caller({ program: 'efs-agent' });
  await runCommandLine([...argv, '--help'], caller);
  await stage.close();
  return caller.out;
}
const commands = [...(await help()).matchAll(/^ {2}efs-agent ([a-z-]+) /gm)].map(([, name]) => name!);

for (const shell of ['bash', 'zsh', 'fish'] as const) {
  const isThere = spawnSync(shell, ['--version']).status === 0;
  test.skipIf(!isThere)(`${shell} completes every command of --help`, () => {
    expect(commands.length).toBeGreaterThan(9);
    expect(offers(shell, 'efs-agent ')).toEqual(expect.arrayContaining(commands));
    expect(offers(shell, 'efs-agent umo')).toEqual(['umount']);
  });

  test.skipIf(!isThere)(`${shell} completes options, mount options after a comma, and fixed words`, () => {
    expect(offers(shell, 'efs-agent status --js')).toEqual(['--json']);
    expect(offers(shell, 'efs-agent mount -o tls,i').map((offer) => offer.replace(/^tls,/, ''))).toEqual([
      'iam',
    ]);
    expect(offers(shell, 'efs-agent explain access.')).toContain('access.denied');
    expect(offers(shell, 'efs-agent log-level ')).toEqual(expect.arrayContaining(['debug', 'default']));
  });
}

test('the scripts know every option that --help of each command shows', async () => {
  const text = { bash: '', zsh: '', fish: '' };
  for (const shell of ['bash', 'zsh', 'fish'] as const) {
    expect(existsSync(scripts[shell])).toBe(true);
    text[shell] = readFileSync(scripts[shell], 'utf8');
  }
  for (const command of commands) {
    const options = [...(await help(command)).matchAll(/^ {2,6}(-\w, )?(--?[a-z0-9-]+) /gm)].map(
      ([, , name]) => name!,
    );
    expect(options.length, command).toBeGreaterThan(0);
    for (const option of options.filter((name) => !['--version', '--help'].includes(name))) {
      const name = option.replace(/^-+/, '');
      const ofCommand = (line: RegExp) =>
        expect(text, `${command} ${option}`).toMatchObject({ bash: expect.stringMatching(line) });
      ofCommand(new RegExp(`^ +${command}\\) .*"[^"]*${option}[ "]`, 'm'));
      expect(text.fish, `${command} ${option}`).toMatch(
        new RegExp(`__efs_agent_given ${command}' .*-${name.length === 1 ? 's' : 'l'} ${name} `),
      );
      const zsh = text.zsh.split(`        ${command}) `)[1]!.split(';;')[0]!;
      expect(zsh, `${command} ${option}`).toContain(`${option}[`);
    }
  }
});

test('the bash script is clean', () => {
  expect(spawnSync('shellcheck', ['-s', 'bash', scripts.bash], { encoding: 'utf8' }).stdout).toBe('');
});
