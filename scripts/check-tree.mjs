// Looks at the committed files themselves: none may name the machine they were written on.
import { execFileSync } from 'node:child_process';
import { lstatSync, readFileSync } from 'node:fs';
import { homedir, hostname } from 'node:os';
import { fileURLToPath } from 'node:url';

/** All files of the clone that are committed or would be: ignored ones are left out. */
export function listFiles() {
  // A clone that belongs to another user is fine: nothing of it is run by this command.
  const git = ['-c', 'safe.directory=*', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'];
  const names = execFileSync('git', git, { encoding: 'utf8', maxBuffer: 1 << 26 })
    .split('\0')
    .filter(Boolean);
  return [...new Set(names)].filter((name) => lstatSync(name, { throwIfNoEntry: false })?.isFile()).sort();
}

/** The shell scripts among them, by their first line; the programs begin with one for the sake of their bundles. */
export function listShellScripts() {
  return listFiles().filter(
    (name) =>
      !name.endsWith('.ts') && /^#!\S*\/(env )?(ba|da)?sh\b/.test(readFileSync(name, 'latin1').slice(0, 64)),
  );
}

function findTraces() {
  const places = [process.cwd(), homedir()].filter((path) => path.length > 1 && path !== '/root');
  const names = [hostname(), registryHost()].filter((name) => name.length > 5 && /\d|\./.test(name));
  const own = [...places, ...names].map((text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  // Folders in which people and build machines keep their checkouts.
  own.push(
    String.raw`(?<![\w.)}\]~*-])/(?:work|workspaces?|builds?|Users|home/(?!user|ubuntu|ec2-user)[a-z])/\w`,
  );
  const trace = new RegExp(own.join('|'));
  const traces = [];
  for (const name of listFiles()) {
    const bytes = readFileSync(name);
    if (bytes.includes(0)) continue;
    bytes
      .toString('utf8')
      .split('\n')
      .forEach((line, index) => {
        if (trace.test(line)) traces.push(`${name}:${index + 1}: ${line.trim().slice(0, 160)}`);
      });
  }
  return traces;
}

/** The package registry this machine uses, where it is not the public one. */
function registryHost() {
  const url = execFileSync('npm', ['config', 'get', 'registry'], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const { hostname: host } = new URL(url.trim());
  return host === 'registry.npmjs.org' ? '' : host;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const traces = findTraces();
  for (const line of traces) process.stderr.write(`${line}\n`);
  if (traces.length > 0) process.stderr.write('these files name the machine they were written on\n');
  process.exitCode = traces.length > 0 ? 1 : 0;
}
