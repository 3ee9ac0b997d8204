import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { openControlSocket } from '../../src/host/control-socket.ts';

const folder = mkdtempSync(join(tmpdir(), 'efs-agent-control-'));
const bundle = join(folder, 'control-socket.cjs');

beforeAll(() =>
  build({
    entryPoints: ['src/host/control-socket.ts'],
    outfile: bundle,
    bundle: true,
    platform: 'node',
    format: 'cjs',
  }),
);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function newPath(): string {
  return join(mkdtempSync(join(folder, 'run-')), 'control.sock');
}

async function open(path: string): Promise<Server> {
  const server = await openControlSocket(path);
  onTestFinished(() => void server.close());
  return server;
}

async function answers(path: string): Promise<boolean> {
  const socket = connect({ path });
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

function connectionCount(server: Server): Promise<number> {
  return promisify(server.getConnections.bind(server))();
}

/** A process that opens the control socket and says how that went. */
function startOpener(path: string): { child: ChildProcess; said: Promise<string> } {
  const program = `require(process.argv[1]).openControlSocket(process.argv[2])
    .then(() => console.log('open'), (error) => { console.log(error.code); process.exit(); });`;
  const child = spawn(process.execPath, ['-e', program, bundle, path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  const said = once(child.stdout, 'data').then(([chunk]) => String(chunk).trim());
  return { child, said };
}

test('the control socket answers, belongs to root alone, and nothing else is left beside it', async () => {
  const path = newPath();

  await open(path);

  expect(await answers(path)).toBe(true);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(readdirSync(join(path, '..'))).toEqual(['control.sock']);
});

test('a second agent is told that another one answers, and takes nothing away', async () => {
  const path = newPath();
  await open(path);

  await expect(openControlSocket(path)).rejects.toMatchObject({ code: 'agent.busy' });

  expect(await answers(path)).toBe(true);
  expect(readdirSync(join(path, '..'))).toEqual(['control.sock']);
});

test('the socket of an agent that was killed is replaced', async () => {
  const path = newPath();
  const { child, said } = startOpener(path);
  expect(await said).toBe('open');
  child.kill('SIGKILL');
  await once(child, 'exit');

  await open(path);

  expect(await answers(path)).toBe(true);
  expect(readdirSync(join(path, '..'))).toEqual(['control.sock']);
});

test('of agents that start at once over a dead socket, exactly one gets it', async () => {
  const path = newPath();
  const dead = startOpener(path);
  await dead.said;
  dead.child.kill('SIGKILL');
  await once(dead.child, 'exit');

  const openers = Array.from({ length: 8 }, () => startOpener(path));
  const said = await Promise.all(openers.map((opener) => opener.said));

  expect(said.filter((word) => word === 'open')).toHaveLength(1);
  expect(said.filter((word) => word === 'agent.busy')).toHaveLength(7);
  expect(await answers(path)).toBe(true);
});

test('a directory that is not there is named', async () => {
  const path = join(folder, 'missing', 'control.sock');

  await expect(openControlSocket(path)).rejects.toMatchObject({
    code: 'runtime-dir.unusable',
    message: expect.stringContaining(path),
  });
});

test('a plain file in the place of the socket is replaced', async () => {
  const path = newPath();
  writeFileSync(path, 'not a socket');

  await open(path);

  expect(await answers(path)).toBe(true);
});

test('a client that connects before the agent serves its socket is answered all the same', async () => {
  const path = newPath();
  const server = await open(path);
  const client = connect({ path });
  client.write('request');
  await once(client, 'connect');
  await expect.poll(() => connectionCount(server)).toBe(1);

  server.on('connection', (socket) => socket.once('data', (bytes) => socket.end(`answer to ${bytes}`)));
  const [answer] = await once(client, 'data');

  expect(String(answer)).toBe('answer to request');
});
