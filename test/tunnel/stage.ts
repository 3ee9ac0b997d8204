import { type ChildProcess, fork, type SendHandle } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import tls, { type TLSSocket } from 'node:tls';
import { afterAll, afterEach, beforeAll } from 'vitest';
import type {
  AgentToWorker,
  Endpoint,
  TlsMaterial,
  TunnelState,
  WorkerToAgent,
} from '../../src/core/worker-protocol.ts';
import { buildBundle, removeBundle } from '../support/bundle.ts';
import { createTemporaryCa, type TemporaryCa, type TemporaryCertificate } from '../support/temporary-ca.ts';

export const deadlineMs = 10_000;
export const serverName = 'fs-0123abcd.efs.test-1.example';

/** What every test of the worker stands on. */
export interface TunnelStage {
  readonly ca: TemporaryCa;
  /** Of a mount target, for `serverName`. */
  readonly certificate: TemporaryCertificate;
  /** Steps that the end of the test carries out, the last one first. */
  atEnd(...steps: (() => Promise<unknown>)[]): void;
  /** A worker of its own for this test, from the bundle. */
  startWorker(options?: StartOptions): Promise<Worker>;
  /** The same, with the tunnel `t` open: it trusts `ca`. */
  startTunnel(options?: StartOptions & { dialTimeoutMs?: number }): Promise<Worker>;
}

/** Builds the worker once for a file of tests, and clears up after each; for the top of the file. */
export function useTunnelStage(): TunnelStage {
  const ca = createTemporaryCa();
  let bundle = '';
  let undo: (() => Promise<unknown>)[] = [];
  beforeAll(async () => {
    bundle = await buildBundle('src/tunnel/worker.ts');
  });
  afterAll(() => removeBundle(bundle));
  afterEach(async () => {
    for (const step of undo.reverse()) await step();
    undo = [];
  });

  const stage: TunnelStage = {
    ca,
    certificate: ca.issue({ names: [serverName] }),
    atEnd: (...steps) => undo.push(...steps),
    startWorker: async (options) => {
      const worker = await startWorker(bundle, options);
      undo.push(worker.stop);
      return worker;
    },
    startTunnel: async ({ dialTimeoutMs = 2_000, ...options } = {}) => {
      const worker = await stage.startWorker(options);
      worker.tell({
        kind: 'tunnel.open',
        tunnelId: 't',
        tls: material(ca.rootPem, serverName),
        dialTimeoutMs,
      });
      return worker;
    },
  };
  return stage;
}

type StartOptions = Partial<Omit<Extract<AgentToWorker, { kind: 'start' }>, 'kind'>> & {
  /** For the Node that runs the worker. */
  nodeFlags?: string[];
};

type Kind = WorkerToAgent['kind'];
type MessageOf<K extends Kind> = Extract<WorkerToAgent, { kind: K }>;

/** A forked worker with a listener in front of it that hands accepted sockets over, as the agent does. */
export interface Worker {
  readonly child: ChildProcess;
  /** Everything the worker has said so far. */
  readonly said: WorkerToAgent[];
  tell(message: AgentToWorker): void;
  /** The first message of this kind that fits, said already or later. */
  hears<K extends Kind>(kind: K, fits?: (message: MessageOf<K>) => boolean): Promise<MessageOf<K>>;
  /** The log line of this event. */
  logs(event: string): Promise<MessageOf<'log'>>;
  /** A pong, with all tunnels of which one was ever told, as they were told last. */
  totals(): Promise<MessageOf<'pong'>>;
  /** Opens a listener for a tunnel; what connects to it becomes a session. */
  listen(tunnelId: string, endpoints: Endpoint[]): Promise<number>;
  /** Where sessions of a listener are told to dial from now on. */
  endpointsOf(tunnelId: string, endpoints: Endpoint[]): void;
  stop(): Promise<void>;
}

export async function startWorker(bundle: string, options: StartOptions = {}): Promise<Worker> {
  const { nodeFlags = [], ...start } = options;
  const child = fork(bundle, [], {
    execArgv: nodeFlags,
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
  });
  const said: WorkerToAgent[] = [];
  const listeners = new Set<Server>();
  const endpointsOf = new Map<string, Endpoint[]>();
  /** Sockets that the worker has not taken yet. */
  const handing = new Map<number, Socket>();
  let sessions = 0;
  let pings = 0;
  child.on('message', (message: WorkerToAgent) => {
    said.push(message);
    if (message.kind !== 'session.taken' && message.kind !== 'session.closed') return;
    const { tunnelId, sessionId } = message;
    handing.get(sessionId)?.destroy();
    handing.delete(sessionId);
    if (message.kind === 'session.closed') return;
    child.send({ kind: 'session.go', tunnelId, sessionId } satisfies AgentToWorker);
  });

  const hears = async <K extends Kind>(kind: K, fits: (message: MessageOf<K>) => boolean = () => true) => {
    const giveUp = AbortSignal.timeout(deadlineMs);
    for (;;) {
      const found = said.find((message) => message.kind === kind && fits(message as MessageOf<K>));
      if (found !== undefined) return found as MessageOf<K>;
      await once(child, 'message', { signal: giveUp }).catch(() => {
        throw new Error(`the worker did not say ${kind}; it said: ${JSON.stringify(said)}`);
      });
    }
  };
  const worker: Worker = {
    child,
    said,
    tell: (message) => child.send(message),
    hears,
    logs: (event) => hears('log', (message) => message.event === event),
    totals: async () => {
      const sequence = ++pings;
      child.send({ kind: 'ping', sequence } satisfies AgentToWorker);
      const pong = await hears('pong', (message) => message.sequence === sequence);
      const known = new Map<string, TunnelState>();
      for (const message of said.slice(0, said.indexOf(pong) + 1)) {
        if (message.kind === 'pong') for (const state of message.tunnels) known.set(state.tunnelId, state);
        if (message.kind === 'tunnel.closed') known.delete(message.tunnelId);
      }
      return { ...pong, tunnels: [...known.values()] };
    },
    listen: async (tunnelId, endpoints) => {
      endpointsOf.set(tunnelId, endpoints);
      const server = createServer({ pauseOnConnect: true }, (socket) => {
        const sessionId = ++sessions;
        const endpoints = endpointsOf.get(tunnelId)!;
        handing.set(sessionId, socket);
        const { _handle: handle } = socket as unknown as { _handle: SendHandle };
        const open = { kind: 'session.open', tunnelId, sessionId, endpoints } satisfies AgentToWorker;
        child.send(open, handle, { keepOpen: true });
      });
      listeners.add(server);
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      return (server.address() as AddressInfo).port;
    },
    endpointsOf: (tunnelId, endpoints) => {
      endpointsOf.set(tunnelId, endpoints);
    },
    stop: async () => {
      for (const server of listeners) server.close();
      for (const socket of handing.values()) socket.destroy();
      if (child.exitCode !== null || child.signalCode !== null) return;
      child.kill('SIGKILL');
      await once(child, 'exit');
    },
  };
  worker.tell({
    kind: 'start',
    dropTo: null,
    budgetBytes: 64 * 1024 * 1024,
    stallTimeoutMs: 20_000,
    maxConnections: 1,
    callbackSocket: null,
    ...start,
  });
  return worker;
}

/** A TLS server that stands for a mount target. */
export interface Peer {
  readonly port: number;
  readonly endpoint: Endpoint;
  /** Connections whose handshake has finished, in order. */
  readonly connections: TLSSocket[];
  /** What is under all open connections, finished or not. */
  readonly plainSockets: ReadonlySet<Socket>;
  /** The nth finished connection, from 0. */
  connection(index: number): Promise<TLSSocket>;
  close(): Promise<void>;
}

export async function startPeer(
  certificate: TemporaryCertificate,
  options: tls.TlsOptions & { serve?: (socket: TLSSocket) => void; port?: number } = {},
): Promise<Peer> {
  const { serve = echo, port = 0, ...tlsOptions } = options;
  const connections: TLSSocket[] = [];
  const server = tls.createServer(
    {
      cert: certificate.certificatePem,
      key: certificate.privateKeyPem,
      allowHalfOpen: true,
      ...tlsOptions,
    } as tls.TlsOptions,
    (socket) => {
      socket.on('error', () => {});
      serve(socket);
      connections.push(socket);
      server.emit('served');
    },
  );
  const plainSockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    plainSockets.add(socket);
    socket.on('close', () => plainSockets.delete(socket)).on('error', () => {});
  });
  server.on('tlsClientError', () => {});
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  const bound = (server.address() as AddressInfo).port;
  return {
    port: bound,
    endpoint: { address: '127.0.0.1', port: bound },
    connections,
    plainSockets,
    connection: async (index) => {
      const giveUp = AbortSignal.timeout(deadlineMs);
      while (connections.length <= index) await once(server, 'served', { signal: giveUp });
      return connections[index]!;
    },
    close: async () => {
      for (const socket of connections) socket.destroy();
      for (const socket of plainSockets) socket.destroy();
      if (!server.listening) return;
      server.close();
      await once(server, 'close');
    },
  };
}

/** Sends back what comes, and ends when the other side ends. */
export function echo(socket: TLSSocket): void {
  socket.pipe(socket);
}

/** Reads and keeps everything; answers nothing. */
export function silent(socket: TLSSocket): void {
  socket.resume();
}

export async function connectTo(port: number): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  socket.on('error', () => {});
  await once(socket, 'connect');
  return socket;
}

/** Reads exactly this many bytes. */
export async function read(socket: Socket, wantedBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let gotBytes = 0;
  const giveUp = AbortSignal.timeout(deadlineMs);
  while (gotBytes < wantedBytes) {
    const chunk: Buffer | null = socket.read(
      Math.min(wantedBytes - gotBytes, Math.max(1, socket.readableLength)),
    );
    if (chunk !== null) {
      chunks.push(chunk);
      gotBytes += chunk.length;
    } else if (socket.readableEnded || socket.destroyed) {
      throw new Error(`the stream ended after ${gotBytes} of ${wantedBytes} bytes`);
    } else {
      await once(socket, 'readable', { signal: giveUp });
    }
  }
  return Buffer.concat(chunks);
}

/** Waits until the socket has ended, and says how. */
export function endOf(socket: Socket): Promise<'end' | 'reset' | 'close'> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error('the stream did not end')), deadlineMs);
    const end = (how: 'end' | 'reset' | 'close') => () => {
      clearTimeout(timer);
      resolve(how);
    };
    if (socket.destroyed) end(socket.errored === null ? 'close' : 'reset')();
    socket.once('end', end('end')).once('error', end('reset')).once('close', end('close'));
    socket.resume();
  });
}

export function material(
  rootPem: string,
  serverName: string,
  client: TlsMaterial['client'] = null,
): TlsMaterial {
  return { trustedRootsPem: [rootPem], serverName, client };
}
