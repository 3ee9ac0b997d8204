// The command line of the virtual machine: scripts/vm/vm.
import { rm } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { vmFolder } from './image.mjs';
import { ensureVm, openVm } from './machine.mjs';

const usage = `usage: scripts/vm/vm build                       make the image and the saved machine, unless they are there
       scripts/vm/vm run [options] -- COMMAND...  run one command in a machine of its own; exit with its status
       scripts/vm/vm shell [options]              a shell in a machine of its own
       scripts/vm/vm clean                        remove everything under ${vmFolder}
options: --cold       boot through kernel and systemd instead of restoring the saved machine
         --clone      copy what ./install.sh and scripts/scenes.sh need of this clone to /root/efs-agent first
         --copy PATH  copy a file or folder of the host to /root first; repeatable
         --tty        give the command a terminal
In the machine the host's loopback is 10.0.2.2. What it writes is thrown away when it ends.
`;

const say = (line) => process.stderr.write(`vm: ${line}\n`);

async function main([verb, ...words]) {
  switch (verb) {
    case 'build':
      await ensureVm(say);
      return 0;
    case 'clean':
      await rm(vmFolder, { recursive: true, force: true });
      return 0;
    case 'run':
    case 'shell':
      return runIn(parseOptions(verb, words));
    case '--help':
      process.stdout.write(usage);
      return 0;
    default:
      process.stderr.write(usage);
      return 1;
  }
}

function parseOptions(verb, words) {
  const options = { boot: 'restore', clone: false, copies: [], tty: false, command: [] };
  while (words.length > 0) {
    const word = words.shift();
    if (word === '--cold') options.boot = 'cold';
    else if (word === '--clone') options.clone = true;
    else if (word === '--tty') options.tty = true;
    else if (word === '--copy' && words.length > 0) options.copies.push(resolve(words.shift()));
    else if (word === '--' && verb === 'run') options.command = words.splice(0);
    else throw new Error(`unknown argument ${word}\n${usage}`);
  }
  if (verb === 'shell') return { ...options, tty: true, command: ['bash', '-l'] };
  if (options.command.length === 0) throw new Error(`no command\n${usage}`);
  return options;
}

async function runIn({ boot, clone, copies, tty, command }) {
  const vm = await openVm({ boot, say });
  try {
    if (clone) await vm.copyClone();
    for (const path of copies) await vm.copyIn(path, `/root/${basename(path)}`);
    return (tty && process.stdin.isTTY ? await attachTerminal(vm, command) : await attach(vm, command)).code;
  } finally {
    await vm.close();
  }
}

/** Gives the guest's command this process's standard streams, for as long as it takes. */
function attach(vm, command, env = {}) {
  return vm.stream(command, {
    timeoutMs: 24 * 3_600_000,
    // What is typed belongs to a command that has a terminal, not to one that only prints.
    input: process.stdin.isTTY && !process.stdin.isRaw ? undefined : process.stdin,
    onStdout: (bytes) => process.stdout.write(bytes),
    onStderr: (bytes) => process.stderr.write(bytes),
    env,
  });
}

async function attachTerminal(vm, command) {
  const { rows = 24, columns = 80 } = process.stdout;
  const quoted = command.map((word) => `'${word.replaceAll("'", `'\\''`)}'`).join(' ');
  const line = `stty rows ${rows} cols ${columns}; exec ${quoted}`;
  process.stdin.setRawMode(true);
  try {
    return await attach(vm, ['script', '-qec', line, '/dev/null'], { TERM: process.env['TERM'] ?? 'linux' });
  } finally {
    process.stdin.setRawMode(false);
  }
}

main(process.argv.slice(2)).then(
  (code) => process.exit(code),
  (error) => {
    process.stderr.write(`vm: ${error.message}\n`);
    process.exit(1);
  },
);
