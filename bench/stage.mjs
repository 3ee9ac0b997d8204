// What every measurement needs: a private copy of the bundles, certificates, the two ends of the load, an agent.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';

export const fileSystemId = 'fs-0123456789abcdef0';
export const serverName = `${fileSystemId}.efs.us-east-1.amazonaws.com`;
const home = resolve(import.meta.dirname, '..');
const bundles = ['agent.cjs', 'worker.cjs', 'identity.cjs', 'mount-efs.cjs', 'efs-agent.mjs'];
const patienceMs = 20_000;

/** Why a relay or a tool cannot be had; the measurement goes on without it. */
export class Unavailable extends Error {}

/**
 * Opens a stage in a temporary directory; `close` ends every process and removes the directory.
 *
 * Errors: when the bundles, a compiler or OpenSSL's headers are missing and cannot be installed.
 */
export async function openStage({ say }) {
  const directory = mkdtempSync(join(tmpdir(), 'efs-bench-'));
  // The worker runs as another user and must reach its bundle.
  chmodSync(directory, 0o755);
  const running = new Set();
  const closing = [];
  const stage = {
    directory,
    dist: join(directory, 'dist'),
    ca: join(directory, 'ca.pem'),
    certificate: join(directory, 'server.pem'),
    key: join(directory, 'server.key'),
    load: join(directory, 'load'),
    say,
    path: (name) => join(directory, name),
    write(name, text) {
      writeFileSync(join(directory, name), text);
      return join(directory, name);
    },
    /** Starts a program that runs until the stage closes, and collects what it writes. */
    start(command, args, options = {}) {
      const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], ...options });
      const program = { child, pid: child.pid, output: '', ended: false };
      const collect = (chunk) => {
        program.output = (program.output + chunk).slice(-100_000);
      };
      child.stdout.on('data', collect);
      child.stderr.on('data', collect);
      child.on('error', (error) => {
        program.output += error.message;
        program.ended = true;
        running.delete(program);
      });
      child.on('exit', () => {
        program.ended = true;
        running.delete(program);
      });
      running.add(program);
      return program;
    },
    async stop(program) {
      if (program.ended) return;
      const gone = once(program.child, 'exit');
      program.child.kill('SIGTERM');
      const late = setTimeout(() => program.child.kill('SIGKILL'), 3_000);
      await gone;
      clearTimeout(late);
    },
    onClose: (step) => closing.push(step),
    async close() {
      try {
        for (const step of closing.splice(0).reverse()) await step();
      } finally {
        await Promise.all([...running].map(stage.stop));
        rmSync(directory, { recursive: true, force: true });
      }
    },
  };
  const onSignal = () => {
    for (const { child } of running) child.kill('SIGKILL');
    rmSync(directory, { recursive: true, force: true });
    process.exit(130);
  };
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, onSignal);
  try {
    copyBundles(stage);
    makeCertificates(stage);
    compileLoad(stage);
  } catch (thrown) {
    await stage.close();
    throw thrown;
  }
  return stage;
}

/** Starts the mount target's stand-in; gives its process id and two ports. With a limit, see load.c. */
export async function startServer(stage, limitBytesPerSecond = null) {
  const limit = limitBytesPerSecond === null ? [] : [String(limitBytesPerSecond)];
  const server = stage.start(stage.load, ['serve', stage.certificate, stage.key, ...limit]);
  await waitFor(() => server.output.includes('\n'), 'the load server', server);
  const [tlsPort, plainPort] = server.output.split(/\s/).map(Number);
  return { pid: server.pid, tlsPort, plainPort };
}

/** Starts an agent of its own in the stage. `mount` and `agent` are lines of its configuration file. */
export async function startAgent(stage, name, { mount = [], agent = [], nodeFlags = [], environment = {} }) {
  const runtimeDir = stage.path(name);
  mkdirSync(join(runtimeDir, 'home'), { recursive: true });
  const lines = ['[mount]', 'region = us-east-1', ...mount, '[agent]', ...agent];
  const conf = stage.write(`${name}.conf`, `${lines.join('\n')}\n`);
  const env = {
    PATH: process.env.PATH,
    HOME: join(runtimeDir, 'home'),
    EFS_AGENT_RUNTIME_DIR: runtimeDir,
    EFS_AGENT_CONFIG: conf,
    ...environment,
  };
  const flags = [...serviceFlags(), ...nodeFlags];
  const program = stage.start(process.execPath, [...flags, join(stage.dist, 'agent.cjs')], { env });
  await waitFor(() => program.output.includes('agent.ready'), 'the agent', program);
  return { program, env, runtimeDir, controlSocket: join(runtimeDir, 'control.sock') };
}

/** What the service gives to Node. */
export function serviceFlags() {
  const unit = readFileSync(join(home, 'systemd/efs-agent.service'), 'utf8');
  return /^ExecStart=@NODE@ (.*)$/m.exec(unit)[1].split(' ').slice(0, -1);
}

/** Waits for a condition. Errors: after 20 s, or when the program has ended; with what the program wrote. */
export async function waitFor(fits, what, program) {
  const deadlineMs = performance.now() + patienceMs;
  while (!fits()) {
    if (program?.ended || performance.now() > deadlineMs) {
      const why = program?.ended ? 'it has ended' : `not ready within ${patienceMs / 1000} s`;
      throw new Error(`${what}: ${why}\n${(program?.output ?? '').trimEnd()}`);
    }
    await new Promise((wake) => setTimeout(wake, 10));
  }
}

/** Runs a program to its end. Errors: a status other than 0, with what it wrote to stderr. */
export async function run(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => {
    stdout += chunk;
  });
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  const [status, signal] = await once(child, 'close');
  if (status !== 0) throw new Error(stderr.trim() || `${command} ended with ${signal ?? status}`);
  return stdout;
}

/** The first line a program writes to its standard output. */
export async function firstLine(program, what) {
  const lines = createInterface({ input: program.child.stdout });
  const ended = once(program.child, 'exit').then(() => {
    throw new Error(`${what}: it has ended\n${program.output.trimEnd()}`);
  });
  const [line] = await Promise.race([once(lines, 'line'), ended]);
  lines.removeAllListeners();
  return line;
}

/** A port of 127.0.0.1 that nobody has at the moment, for programs that cannot choose one themselves. */
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/**
 * Makes sure that a program is there, installing its distribution package if that is possible.
 *
 * Errors: `Unavailable`.
 */
export function needProgram(program, packageName, say, unwantedUnits = []) {
  if (isInPath(program)) return;
  installPackage(packageName, `for ${program}`, say);
  // A package's own service has no part in this.
  if (isInPath('systemctl')) {
    for (const unit of unwantedUnits)
      ignoreFailure(() => execFileSync('systemctl', ['disable', '--now', unit], { stdio: 'ignore' }));
  }
  if (!isInPath(program)) throw new Unavailable(`${program} is not in PATH`);
}

/** Makes sure that a file of a package is there. Errors: `Unavailable`. */
export function needFile(path, packageName, why, say) {
  if (!existsSync(path)) installPackage(packageName, why, say);
}

function installPackage(name, why, say) {
  if (process.getuid() !== 0 || !existsSync('/usr/bin/apt-get')) {
    throw new Unavailable(`the package ${name} is not installed`);
  }
  say(`installing the package ${name}, ${why}`);
  const options = ['-o', 'DPkg::Lock::Timeout=300', '-qq'];
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  try {
    execFileSync('apt-get', [...options, 'update'], { env, stdio: 'ignore' });
    execFileSync('apt-get', [...options, 'install', '-y', '--no-install-recommends', name], {
      env,
      stdio: 'ignore',
    });
  } catch {
    throw new Unavailable(`the package ${name} cannot be installed`);
  }
}

function isInPath(program) {
  return (process.env.PATH ?? '')
    .split(':')
    .some((folder) => folder !== '' && existsSync(join(folder, program)));
}

/** A copy: a build that runs meanwhile must not change what is measured. */
function copyBundles(stage) {
  const source = join(home, 'dist');
  const missing = bundles.find((name) => !existsSync(join(source, name)));
  if (missing !== undefined) throw new Error(`dist/${missing} is missing: run "npm run build" first`);
  cpSync(source, stage.dist, { recursive: true });
}

function makeCertificates(stage) {
  const openssl = (...args) => execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const newKey = ['-newkey', 'rsa:2048', '-nodes', '-days', '2'];
  const issued = ['-CA', stage.ca, '-CAkey', stage.path('ca.key'), '-CAcreateserial', '-days', '2'];
  openssl(
    'req',
    '-x509',
    ...newKey,
    '-subj',
    '/CN=Benchmark Root',
    '-keyout',
    stage.path('ca.key'),
    '-out',
    stage.ca,
  );
  for (const [name, subject, use] of [
    ['server', '*.efs.us-east-1.amazonaws.com', 'serverAuth'],
    ['client', 'benchmark', 'clientAuth'],
  ]) {
    const request = stage.path(`${name}.csr`);
    const alternative = name === 'server' ? `subjectAltName=DNS:${subject}\n` : '';
    const extensions = stage.write(`${name}.ext`, `${alternative}extendedKeyUsage=${use}\n`);
    openssl(
      'req',
      ...newKey.slice(0, 3),
      '-subj',
      `/CN=${subject}`,
      '-keyout',
      stage.path(`${name}.key`),
      '-out',
      request,
    );
    openssl(
      'x509',
      '-req',
      '-in',
      request,
      ...issued,
      '-extfile',
      extensions,
      '-out',
      stage.path(`${name}.pem`),
    );
  }
}

function compileLoad(stage) {
  needProgram('cc', 'gcc', stage.say);
  needFile('/usr/include/stdio.h', 'libc6-dev', 'for the compiler', stage.say);
  needFile('/usr/include/openssl/ssl.h', 'libssl-dev', "for OpenSSL's headers", stage.say);
  const source = join(import.meta.dirname, 'load.c');
  execFileSync('cc', ['-O2', '-Wall', '-Wextra', '-o', stage.load, source, '-lssl', '-lcrypto', '-lpthread']);
}

function ignoreFailure(step) {
  try {
    step();
  } catch {
    // The unit does not exist or no systemd runs: nothing to disable.
  }
}
