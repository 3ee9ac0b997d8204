import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  type AgentStage,
  fileSystemId,
  openAgentStage,
  type Running,
  targetName,
  waitFor,
} from '../support/agent-stage.ts';

let stage: AgentStage;
beforeEach(() => {
  stage = openAgentStage([23000, 23049]);
});
afterEach(() => stage.close());

test('efs-agent tunnel prints one line when the tunnel is ready and ends it when it ends', async () => {
  await stage.startTarget();
  await stage.startAgent();
  const tunnel = await openTunnel();

  const answer = await ask(tunnel.port, 'hello');
  tunnel.program.child.kill('SIGTERM');
  const ended = await tunnel.program.ended;

  expect(answer).toBe('hello');
  expect(ended).toEqual({ status: 0, stdout: `127.0.0.1:${tunnel.port}\n`, stderr: '' });
  await expect.poll(async () => (await stage.status()).mounts).toEqual([]);
  await expect(ask(tunnel.port, 'x')).rejects.toThrow('ECONNREFUSED');
});

test('a killed worker is replaced, and a connection made at that moment is served by the next one', async () => {
  const target = await stage.startTarget();
  const agent = await stage.startAgent();
  const tunnel = await openTunnel();
  const { pid } = (await stage.status()).worker;

  process.kill(pid!, 'SIGKILL');
  const answers = await Promise.all(['one', 'two', 'three'].map((text) => ask(tunnel.port, text)));

  expect(answers).toEqual(['one', 'two', 'three']);
  expect(agent.stderr()).toContain('worker.lost');
  expect((await stage.status()).worker).toMatchObject({ state: 'up', restarts: 1 });
  expect(target.accepted()).toBe(4);
});

test('a connection made while the worker is stopped is not lost: the next worker serves it', async () => {
  await stage.startTarget();
  const agent = await stage.startAgent();
  const tunnel = await openTunnel();
  const { pid } = (await stage.status()).worker;

  process.kill(pid!, 'SIGSTOP');
  const answer = await ask(tunnel.port, 'said to a stopped worker');

  expect(answer).toBe('said to a stopped worker');
  expect(agent.stderr()).toContain('worker.hung');
  expect((await stage.status()).worker.restarts).toBe(1);
});

test('a reset by the mount target ends the local connection at once, and the next one is dialled anew', async () => {
  const target = await stage.startTarget();
  await stage.startAgent();
  const tunnel = await openTunnel();
  const client = connect({ port: tunnel.port, host: '127.0.0.1' });
  client.on('error', () => {});
  client.write('x');
  await new Promise((resolve) => client.once('data', resolve));

  target.resetAll();
  await new Promise((resolve) => client.once('close', resolve));
  const answer = await ask(tunnel.port, 'again');

  expect(answer).toBe('again');
});

test('a killed agent leaves open connections alone, and the next agent serves the same port again', async () => {
  await stage.startTarget();
  const first = await stage.startAgent();
  const tunnel = await openTunnel();
  const client = connect({ port: tunnel.port, host: '127.0.0.1' });
  const received: string[] = [];
  client.on('data', (chunk) => received.push(chunk.toString()));
  client.write('before');
  await expect.poll(() => received.join('')).toBe('before');

  first.child.kill('SIGKILL');
  await first.ended;
  client.write(' after');

  await expect.poll(() => received.join('')).toBe('before after');
  client.destroy();
});

test('a second agent in the same runtime directory is refused, the first one stays', async () => {
  await stage.startTarget();
  await stage.startAgent();

  const second = await stage.efsAgent('agent');

  expect(second.status).toBe(2);
  expect(second.stderr).toContain('[agent.busy]');
  expect((await stage.status()).pid).not.toBeNull();
});

test('an agent takes the place of one that was killed and left its socket', async () => {
  const first = await stage.startAgent();
  first.child.kill('SIGKILL');
  await first.ended;

  const second = await stage.startAgent();

  expect((await stage.status()).pid).toBe(second.child.pid);
});

test('the worker has its own user, no capabilities, and no secret in its environment', async () => {
  await stage.startTarget({ names: [targetName] });
  await stage.startAgent();
  await openTunnel();
  const { pid } = (await stage.status()).worker;

  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const environment = readFileSync(`/proc/${pid}/environ`, 'utf8');

  if (process.getuid?.() === 0) expect(status).toMatch(/^Uid:\s+(?!0\b)\d+/m);
  expect(status).toMatch(/^CapEff:\s+0+$/m);
  expect(environment).not.toContain('AWS_');
});

async function openTunnel(): Promise<{ program: Running; port: number }> {
  const program = stage.start('dist/efs-agent.mjs', [
    'tunnel',
    fileSystemId,
    '-o',
    'tls,mounttargetip=127.0.0.1',
  ]);
  await waitFor(() => program.stdout().includes('\n'), 'the tunnel to be ready', program);
  return { program, port: Number(program.stdout().trim().split(':')[1]) };
}

function ask(port: number, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: '127.0.0.1' }, () => socket.write(text));
    let answer = '';
    socket.on('data', (chunk) => {
      answer += chunk;
      if (answer.length >= text.length) socket.end();
    });
    socket.on('error', reject);
    socket.on('close', () => resolve(answer));
  });
}
