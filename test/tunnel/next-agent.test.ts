import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { expect, test } from 'vitest';
import type { AgentToOrphan, WorkerToAgent } from '../../src/core/worker-protocol.ts';
import { createTemporaryDirectory } from '../support/temporary-directory.ts';
import { ask, createRpcPeer } from './rpc-peer.ts';
import { connectTo, deadlineMs, endOf, startPeer, useTunnelStage, type Worker } from './stage.ts';

const stage = useTunnelStage();

/** The side of a next agent: one connection of a worker, line by line. */
class Caller {
  readonly said: WorkerToAgent[] = [];
  readonly socket: Socket;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('error', () => {});
    createInterface({ input: socket }).on('line', (line) => {
      this.said.push(JSON.parse(line) as WorkerToAgent);
    });
  }

  tell(message: AgentToOrphan): void {
    this.socket.write(`${JSON.stringify(message)}\n`);
  }

  async hears<K extends WorkerToAgent['kind']>(kind: K): Promise<Extract<WorkerToAgent, { kind: K }>> {
    const find = () => this.said.find((message) => message.kind === kind);
    await expect.poll(find, { timeout: deadlineMs }).toBeDefined();
    return find() as Extract<WorkerToAgent, { kind: K }>;
  }
}

class NextAgentSocket {
  readonly callers: Caller[] = [];
  readonly server: Server;

  constructor(path: string) {
    this.server = createServer((socket) => this.callers.push(new Caller(socket)));
    this.server.listen(path);
  }

  async caller(index: number): Promise<Caller> {
    await expect.poll(() => this.callers.length, { timeout: deadlineMs }).toBeGreaterThan(index);
    return this.callers[index]!;
  }

  async close(): Promise<void> {
    for (const { socket } of this.callers) socket.destroy();
    this.server.close();
    await once(this.server, 'close');
  }
}

async function startOrphan(): Promise<{
  worker: Worker;
  client: Socket;
  path: string;
  exited: Promise<unknown[]>;
}> {
  const directory = createTemporaryDirectory();
  const path = join(directory, 'workers.sock');
  const peer = await startPeer(stage.certificate, { serve: createRpcPeer().serve });
  const worker = await stage.startTunnel({ callbackSocket: path });
  stage.atEnd(() => rm(directory, { recursive: true, force: true }), peer.close);
  const client = await connectTo(await worker.listen('t', [peer.endpoint]));
  await ask(client, 1);
  const exited = once(worker.child, 'exit');
  worker.child.disconnect();
  return { worker, client, path, exited };
}

function listen(path: string): NextAgentSocket {
  const socket = new NextAgentSocket(path);
  stage.atEnd(() => socket.close());
  return socket;
}

test('a worker whose agent has died introduces itself to the next one, however late that comes', async () => {
  const { worker, client, path } = await startOrphan();
  await ask(client, 2);

  const caller = await listen(path).caller(0);

  expect(await caller.hears('hello')).toMatchObject({
    pid: worker.child.pid,
    version: '0.0.0-test',
    tunnels: [
      { tunnelId: 't', sessions: 1, bytesUp: 88, open: [{ sessionId: 1, connections: 1, inFlight: 0 }] },
    ],
  });
  await ask(client, 3);
});

test('the next agent hears the pulse, the log and the end of sessions, and the worker leaves with the last', async () => {
  const { client, path, exited } = await startOrphan();
  const caller = await listen(path).caller(0);
  caller.tell({ kind: 'ping', sequence: 9 });
  expect(await caller.hears('pong')).toMatchObject({
    sequence: 9,
    tunnels: [{ tunnelId: 't', sessions: 1 }],
  });

  client.end();
  await endOf(client);

  expect(await caller.hears('session.closed')).toMatchObject({ tunnelId: 't', sessionId: 1 });
  expect(await caller.hears('log')).toMatchObject({ event: 'session.closed' });
  expect(await exited).toEqual([0, null]);
});

test('the next agent retires the worker', async () => {
  const { client, path, exited } = await startOrphan();
  const caller = await listen(path).caller(0);

  caller.tell({ kind: 'retire', deadlineMs: 60_000 });

  expect(await endOf(client)).toBe('end');
  client.end();
  expect(await caller.hears('session.closed')).toMatchObject({ cause: 'retired' });
  await caller.hears('retired');
  expect(await exited).toEqual([0, null]);
});

test('the next agent closes a tunnel', async () => {
  const { client, path, exited } = await startOrphan();
  const caller = await listen(path).caller(0);
  const ended = endOf(client);

  caller.tell({ kind: 'tunnel.close', tunnelId: 't' });

  expect(await ended).toBe('reset');
  expect(await caller.hears('tunnel.closed')).toMatchObject({ tunnelId: 't' });
  expect(await exited).toEqual([0, null]);
});

test('the worker comes back to an agent that dies, too', async () => {
  const { client, path } = await startOrphan();
  const first = new NextAgentSocket(path);
  await (await first.caller(0)).hears('hello');
  await first.close();

  const caller = await listen(path).caller(0);

  await caller.hears('hello');
  await ask(client, 2);
});

test('a stranger on the callback socket that speaks nonsense is left, and the sessions go on', async () => {
  const { client, path } = await startOrphan();
  const socket = listen(path);
  for (const [index, nonsense] of ['{\n', '"start"\n', '{"kind":"start"}\n'].entries()) {
    const caller = await socket.caller(index);
    const left = once(caller.socket, 'close');
    caller.socket.write(nonsense);
    await left;
  }

  await ask(client, 2);
});
