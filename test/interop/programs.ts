import { execFile, spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { resolve } from 'node:path';
import { promisify } from 'node:util';

/** A program that was not written by us, installed below `.cache`, or why it is not there. */
export type Installed = { kind: 'ready'; path: string } | { kind: 'absent'; why: string };

/** A running one; `stop` ends it. */
export interface RunningProgram {
  url: string;
  stop(): Promise<void>;
}

const cache = resolve('.cache');
const installLimitMs = 240_000;

/** The server of `moto`, which answers as AWS does; from the Python package index. */
export function installMoto(): Promise<Installed> {
  const packages = 'moto==5.2.5 flask==3.1.3 flask-cors==6.0.5';
  return install(
    `${cache}/moto-5.2.5`,
    'bin/moto_server',
    ['python3', '--version'],
    `python3 -m venv --clear "$1" && "$1/bin/pip" install --quiet ${packages}`,
  );
}

/** `amazon-ec2-metadata-mock`, an instance metadata service; from the Go module proxy. */
export function installMetadataMock(): Promise<Installed> {
  return install(
    `${cache}/metadata-mock-1.13.0`,
    'ec2-metadata-mock',
    ['go', 'version'],
    'GOBIN="$1" go install github.com/aws/amazon-ec2-metadata-mock/cmd/ec2-metadata-mock@v1.13.0',
  );
}

/**
 * Starts a program that listens on the port it is given, and waits until it answers HTTP.
 *
 * Errors: when it does not listen within twenty seconds; the message holds what it wrote.
 */
export async function startProgram(
  path: string,
  args: (port: number) => string[],
  env: Record<string, string> = {},
): Promise<RunningProgram> {
  const port = await findFreePort();
  const child = spawn(path, args(port), {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output = (output + chunk).slice(-2_000);
    });
  }
  const ended = new Promise<void>((done) => child.once('exit', () => done()));
  const url = `http://127.0.0.1:${port}`;
  const deadlineMs = performance.now() + 20_000;
  while (child.exitCode === null && !(await answers(url))) {
    if (performance.now() > deadlineMs) child.kill('SIGKILL');
    await new Promise((wake) => setTimeout(wake, 50));
  }
  if (child.exitCode !== null) throw new Error(`${path} does not listen on ${port}:\n${output}`);
  return {
    url,
    async stop() {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

/** Installs once, under a lock, into a directory that carries the version; an unfinished one is made again. */
async function install(
  directory: string,
  program: string,
  needs: [string, string],
  script: string,
): Promise<Installed> {
  const run = promisify(execFile);
  const path = `${directory}/${program}`;
  try {
    await run(needs[0], [needs[1]]);
  } catch {
    return { kind: 'absent', why: `not here: ${needs[0]} is not installed` };
  }
  mkdirSync(cache, { recursive: true });
  const once = `test -e "$1/.whole" && exit; rm -rf "$1"; { ${script}; } && touch "$1/.whole"`;
  try {
    await run('flock', [`${directory}.lock`, 'sh', '-c', once, 'sh', directory], { timeout: installLimitMs });
    return { kind: 'ready', path };
  } catch (thrown) {
    const { stderr } = thrown as { stderr?: string };
    const lastLine = stderr?.trim().split('\n').at(-1) ?? '';
    return { kind: 'absent', why: `not here: ${needs[0]} could not install it: ${lastLine}` };
  }
}

/** The port is free when we look; nothing else on this machine hands out ports at random for long. */
async function findFreePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', () => done()));
  const address = server.address();
  await new Promise((done) => server.close(done));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

async function answers(url: string): Promise<boolean> {
  try {
    await (await fetch(url)).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}
