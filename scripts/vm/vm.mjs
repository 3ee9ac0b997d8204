// The command line of the virtual machine: scripts/vm/vm.
import { rm } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { vmFolder } from './image.mjs';
import { ensureVm, openVm } from './machine.mjs';

const usage = `usage: scripts/vm/vm build                     make the image and the saved machine, unless they are there
       scripts/vm/vm run [options] -- COMMAND...   run one command in a machine of its own; exit with its status
       scripts/vm/vm shell [options]               a shell in a machine of its own
       scripts/vm/vm clean                         remove everything under ${vmFolder}
options: --cold          boot through kernel and systemd instead of restoring the saved machine
         --copy PATH     copy a file or folder of the host to /root first; repeatable
In the machine the host's loopback is 10.0.2.2. What it writes is thrown away when it ends.
`;

const say = (line) => process.stderr.write(`vm: ${line}\n`);

async function main([verb, ...words]) {
  if (verb === 'build') await ensureVm(say);
  else if (verb === 'clean') await rm(vmFolder, { recursive: true, force: true });
  else if (verb === 'run' || verb === 'shell') return runIn(verb, words);
  else process.stderr.write(usage);
  return ['build', 'clean', '--help'].includes(verb) ? 0 : 1;
}

async function runIn(verb, words) {
  const options = { boot: 'restore', copies: [], command: [] };
  while (words.length > 0) {
    const word = words.shift();
    if (word === '--cold') options.boot = 'cold';
    else if (word === '--copy' && words.length > 0) options.copies.push(resolve(words.shift()));
    else if (word === '--' && verb === 'run') options.command = words.splice(0);
    else throw new Error(`unknown argument ${word}\n${usage}`);
  }
  if (verb === 'run' && options.command.length === 0) throw new Error(`no command\n${usage}`);
  const vm = await openVm({ boot: options.boot, say });
  try {
    for (const path of options.copies) await vm.copyIn(path, `/root/${basename(path)}`);
    return verb === 'shell' ? await shell(vm) : (await attach(vm, options.command)).code;
  } finally {
    await vm.close();
  }
}

/** Gives the guest's command this process's standard streams, for as long as it takes. */
function attach(vm, command, env = {}) {
  return vm.stream(command, {
    timeoutMs: 24 * 3_600_000,
    input: process.stdin.isTTY && !process.stdin.isRaw ? undefined : process.stdin,
    onStdout: (bytes) => process.stdout.write(bytes),
    onStderr: (bytes) => process.stderr.write(bytes),
    env,
  });
}

async function shell(vm) {
  if (!process.stdin.isTTY) return (await attach(vm, ['bash', '-l'])).code;
  say('a shell in the virtual machine; it ends with exit or Control-D');
  process.stdin.setRawMode(true);
  try {
    const size = `stty rows ${process.stdout.rows ?? 24} cols ${process.stdout.columns ?? 80}`;
    return (
      await attach(vm, ['script', '-qec', `${size}; exec bash -l`, '/dev/null'], {
        TERM: process.env['TERM'] ?? 'linux',
      })
    ).code;
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
