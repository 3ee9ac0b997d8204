import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import { expect, onTestFinished } from 'vitest';
import type { AgentToIdentity, IdentityToAgent } from '../../src/core/identity-protocol.ts';
import { closedEndpoint, plantedSecret } from './endpoints.ts';

// The bundle that users run, so that the files of the AWS SDK beside it are proved too.
const program = resolve('dist/identity.cjs');

type Start = Extract<AgentToIdentity, { kind: 'start' }>;
/** What can be asked of an identity process. */
export type Question = AgentToIdentity extends infer M
  ? M extends { requestId: number }
    ? Omit<M, 'requestId'>
    : never
  : never;

/** A real identity process, as the agent forks it; nothing may appear on its standard streams, and no secret in any failure. */
export async function forkIdentity(start: Partial<Start> | null = {}, env: Record<string, string> = {}) {
  const child: ChildProcess = fork(program, {
    serialization: 'advanced',
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    env: { PATH: process.env['PATH'], ...env },
  });
  const received: IdentityToAgent[] = [];
  let output = '';
  child.stdout?.on('data', (chunk) => {
    output += chunk;
  });
  child.stderr?.on('data', (chunk) => {
    output += chunk;
  });
  child.on('message', (message: IdentityToAgent) => received.push(message));
  const exited = once(child, 'exit') as Promise<[number | null, string | null]>;
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await exited;
    expect(output).toBe('');
    expect(JSON.stringify(received)).not.toContain(plantedSecret);
  });
  await expect.poll(() => received[0]).toEqual({ kind: 'ready', pid: child.pid });

  let lastId = 0;
  const send = (message: unknown) => void child.send(message as AgentToIdentity);
  if (start) {
    send({
      kind: 'start',
      environment: {},
      metadataEndpoint: closedEndpoint,
      home: '/nonexistent',
      ...start,
    } satisfies Start);
  }
  const ask = async (question: Question) => {
    lastId += 1;
    const requestId = lastId;
    send({ ...question, requestId });
    const find = () => received.find((message) => 'requestId' in message && message.requestId === requestId);
    await expect.poll(find, { timeout: 8_000, interval: 5 }).toBeDefined();
    return find()!;
  };
  return { child, exited, send, ask, received };
}
