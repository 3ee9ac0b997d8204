import { constants, randomUUID } from 'node:crypto';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { hostname, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { Duplex } from 'node:stream';
import { createServer as createTlsServer, type Server as TlsServer, type TLSSocket } from 'node:tls';
import { AgentError, asAgentError } from '../core/errors.ts';
import { type AccessOutcome, type AccountFacts, type ConnectionFacts, decideAccess } from './access.ts';
import { type AccessPoint, openAccessPointRoot } from './access-point.ts';
import { checkClientCertificate } from './client-certificate.ts';
import { type CredentialIssuer, openCredentialIssuer } from './credentials.ts';
import { connectionClosedEvent, newClientConnectionEvent, type TargetEvent } from './events.ts';
import { type Backend, type BackendRoot, clientAddressFor, findGanesha, openBackend } from './ganesha.ts';
import { joinStreams } from './join.ts';
import { openMetadataService } from './metadata.ts';
import { type Policy, parsePolicy } from './policy.ts';
import { createRefusal } from './refusal.ts';
import { openServerIdentity, type ServerIdentity } from './server-certificate.ts';

/** An address where the mount target listens; port 0 = any free one. */
export interface ListenAddress {
  address: string;
  port: number;
  /** The file system whose mount target this address is; null = all of them. */
  fileSystemId: string | null;
}

export interface TargetOptions extends AccountFacts {
  roleName: string;
  instanceId: string;
  /** Directory null = one inside the state directory. */
  fileSystems: readonly { id: string; directory: string | null }[];
  accessPoints: readonly AccessPoint[];
  policyFile: string | null;
  listen: readonly ListenAddress[];
  metadata: { address: string; port: number; tokenOptional: boolean };
  /** Null = a temporary one, removed by `close`. */
  stateDirectory: string | null;
  credentialsLifetimeMs: number;
  onEvent: (event: TargetEvent) => void;
  /** Epoch milliseconds; every decision about time uses it. */
  nowMs: () => number;
}

/** A running mount target. */
export interface Target {
  caFile: string;
  metadataUrl: string;
  /** In the order of `TargetOptions.listen`, with the ports that were bound. */
  listening: readonly { address: string; port: number }[];
  /** Reads the policy file now. Errors: `config.*`; the policy in force then stays. */
  reloadPolicy(): void;
  close(): Promise<void>;
}

/** First byte of a TLS record that holds a handshake. Source: RFC 8446 section 5.1. */
const tlsHandshakeByte = 0x16;

/**
 * Opens a local EFS mount target: TLS and plain NFS on the same addresses, NFS-Ganesha behind them,
 * and the instance metadata service beside them.
 *
 * Errors: `permission.not-root`, `nfs.program-missing`, `nfs.failed`, `port.taken`, `config.*`, `runtime-dir.unusable`;
 * whatever had been opened is closed again.
 */
export async function openTarget(options: TargetOptions): Promise<Target> {
  if (process.getuid?.() !== 0) {
    throw new AgentError('permission.not-root', 'the mount target must run as root: its NFS server acts for every user');
  }
  const ganesha = findGanesha(process.env['PATH'] ?? '');
  const undo: (() => Promise<void> | void)[] = [];
  const close = async () => {
    for (const step of undo.splice(0).reverse()) await step();
  };
  try {
    const stateDirectory = openStateDirectory(options.stateDirectory, undo);
    const policy = openPolicy(options, (step) => undo.push(step));
    const identity = openServerIdentity(stateDirectory, options.region, options.dnsSuffix, options.nowMs());
    const issuer = openCredentialIssuer({ ...options, stateDirectory, lifetimeMs: options.credentialsLifetimeMs });
    const backends = createBackends(ganesha, stateDirectory);
    undo.push(backends.close);
    const directories = new Map(options.fileSystems.map(({ id, directory }) => [id, makeExport(stateDirectory, id, directory)]));
    await Promise.all([...directories].map(([name, directory]) => backends.open({ name, directory, user: null })));

    const metadata = await openMetadataService({ ...options.metadata, instance: describeInstance(options), issuer, nowMs: options.nowMs });
    undo.push(metadata.close);
    const parts: TargetParts = { options, identity, issuer, backends, directories, policy };
    const listening: { address: string; port: number }[] = [];
    for (const listen of options.listen) {
      const listener = await openListener(listen, parts);
      undo.push(listener.close);
      listening.push({ address: listen.address, port: listener.port });
    }
    return { caFile: identity.caFile, metadataUrl: metadata.url, listening, reloadPolicy: policy.reload, close };
  } catch (thrown) {
    await close();
    throw thrown;
  }
}

interface TargetParts {
  options: TargetOptions;
  identity: ServerIdentity;
  issuer: CredentialIssuer;
  backends: Backends;
  directories: ReadonlyMap<string, string>;
  policy: PolicySource;
}

function openStateDirectory(wanted: string | null, undo: (() => void)[]): string {
  try {
    if (wanted !== null) {
      mkdirSync(wanted, { recursive: true, mode: 0o700 });
      return resolve(wanted);
    }
    const temporary = mkdtempSync(join(tmpdir(), 'efs-agent-target-'));
    undo.push(() => rmSync(temporary, { recursive: true, force: true }));
    return temporary;
  } catch (thrown) {
    const why = thrown instanceof Error ? thrown.message : String(thrown);
    throw new AgentError('runtime-dir.unusable', `the state directory cannot be used: ${why}`, { hint: 'Name another one with --state-dir.' }, thrown);
  }
}

function makeExport(stateDirectory: string, id: string, directory: string | null): string {
  const path = resolve(directory ?? join(stateDirectory, 'fs', id));
  try {
    if (mkdirSync(path, { recursive: true }) !== undefined) chmodSync(path, 0o755);
  } catch (thrown) {
    const why = thrown instanceof Error ? thrown.message : String(thrown);
    throw new AgentError('runtime-dir.unusable', `the directory of ${id} cannot be used: ${why}`, { hint: 'Name another directory.' }, thrown);
  }
  return path;
}

function describeInstance(options: TargetOptions) {
  const { region, partition, accountId, instanceId, roleName } = options;
  return { region, partition, accountId, instanceId, roleName, hostName: hostname(), localIp: '127.0.0.1' };
}

interface PolicySource {
  current(): Policy | null;
  reload(): void;
}

/** The policy file is read at every new connection; one that cannot be read leaves the last good one in force. */
function openPolicy({ policyFile, onEvent }: TargetOptions): PolicySource {
  if (policyFile === null) return { current: () => null, reload: () => {} };
  let policy = readPolicy(policyFile);
  const reload = () => {
    policy = readPolicy(policyFile);
  };
  return {
    reload,
    current: () => {
      try {
        reload();
      } catch (thrown) {
        const { code, message } = asAgentError(thrown);
        onEvent({ eventName: 'PolicyRejected', code, message });
      }
      return policy;
    },
  };
}

function readPolicy(file: string): Policy {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (thrown) {
    const why = thrown instanceof Error ? thrown.message : String(thrown);
    throw new AgentError('config.unreadable', `the policy file cannot be read: ${why}`, { file }, thrown);
  }
  return parsePolicy(text);
}

interface Backends {
  /** The running server of a root; starts it, also after it has died. */
  open(root: BackendRoot): Promise<Backend>;
  close(): Promise<void>;
}

function createBackends(ganesha: string, stateDirectory: string): Backends {
  const opened = new Map<string, Promise<Backend>>();
  const start = (root: BackendRoot): Promise<Backend> => {
    const forget = () => opened.delete(root.name);
    const starting = openBackend(ganesha, root, stateDirectory);
    opened.set(root.name, starting);
    starting.then(({ ended }) => ended.then(forget), forget);
    return starting;
  };
  return {
    open: (root) => opened.get(root.name) ?? start(root),
    close: async () => {
      const settled = await Promise.allSettled(opened.values());
      await Promise.all(settled.map((one) => (one.status === 'fulfilled' ? one.value.close() : undefined)));
    },
  };
}

async function openListener(listen: ListenAddress, parts: TargetParts): Promise<{ port: number; close: () => Promise<void> }> {
  const sockets = new Set<Socket>();
  const tlsServer = openTlsServer(listen, parts);
  // Half-open: the end of one direction must not end the other.
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    recognise(socket, tlsServer, listen, parts);
  });
  await listenOn(server, listen);
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((done) => {
        server.close(() => done());
        for (const socket of sockets) socket.destroy();
      }),
  };
}

function listenOn(server: Server, { address, port }: ListenAddress): Promise<void> {
  return new Promise((done, reject) => {
    server.once('error', (cause) =>
      reject(
        new AgentError(
          'port.taken',
          `cannot listen on ${address}:${port}: ${cause.message}`,
          { address, port, hint: 'Choose another address or port with --listen.' },
          cause,
        ),
      ),
    );
    server.listen(port, address, done);
  });
}

function openTlsServer(listen: ListenAddress, parts: TargetParts): TlsServer {
  const { certificatePem, privateKeyPem } = parts.identity;
  const server = createTlsServer({
    cert: certificatePem,
    key: privateKeyPem,
    minVersion: 'TLSv1.2',
    requestCert: true,
    // Client certificates are self-signed; they are checked by us, after the handshake.
    rejectUnauthorized: false,
    // Every connection shows its certificate: none is resumed.
    secureOptions: constants.SSL_OP_NO_TICKET,
  });
  server.on('secureConnection', (socket) => {
    void serve(socket, describeConnection(socket, 'tls'), listen, parts);
  });
  server.on('tlsClientError', (error, socket) => {
    const none = { bytesReceived: 0, bytesSent: 0 };
    const connection = describeConnection(socket, 'tls');
    parts.options.onEvent(connectionClosedEvent(connection, none, `TLS handshake: ${error.message}`, parts.options.nowMs()));
  });
  return server;
}

/** Tells TLS from plain NFS by the first byte: a mount target speaks both on its one port. */
function recognise(socket: Socket, tlsServer: TlsServer, listen: ListenAddress, parts: TargetParts): void {
  const connection = describeConnection(socket, 'tcp');
  const { onEvent, nowMs } = parts.options;
  const onClose = () =>
    onEvent(connectionClosedEvent(connection, { bytesReceived: 0, bytesSent: 0 }, 'closed without a byte', nowMs()));
  const onEnd = () => socket.destroy();
  // The close event follows.
  socket.on('error', () => {});
  socket.once('close', onClose);
  socket.once('end', onEnd);
  socket.once('data', (chunk: Buffer) => {
    socket.off('close', onClose);
    socket.off('end', onEnd);
    socket.pause();
    socket.unshift(chunk);
    if (chunk[0] === tlsHandshakeByte) tlsServer.emit('connection', socket);
    else void serve(socket, connection, listen, parts);
  });
}

function describeConnection(socket: Socket, transport: 'tls' | 'tcp'): ConnectionFacts {
  return {
    connectionId: randomUUID(),
    sourceIp: (socket.remoteAddress ?? '').replace(/^::ffff:/, ''),
    sourcePort: socket.remotePort ?? 0,
    transport,
  };
}

/** Decides about one client, then carries its bytes or refuses it, until it is gone. */
async function serve(client: Socket | TLSSocket, connection: ConnectionFacts, listen: ListenAddress, parts: TargetParts): Promise<void> {
  const { options, backends } = parts;
  const counters = { bytesReceived: 0, bytesSent: 0 };
  let failure: string | null = null;
  // The close event follows.
  client.on('error', () => {});
  const { outcome, root } = admit(client, connection, listen, parts);
  options.onEvent(newClientConnectionEvent(options, connection, outcome, options.nowMs()));
  if (outcome.kind === 'granted' && root !== null) {
    try {
      const { port } = await backends.open(root);
      const { ClientWrite: write, ClientRootAccess: rootAccess } = outcome.decision.permissions;
      const localAddress = clientAddressFor({ write, root: rootAccess });
      const backend = connect({ host: '127.0.0.1', port, localAddress, allowHalfOpen: true, noDelay: true });
      await joinStreams(client, backend, counters);
    } catch (thrown) {
      failure = asAgentError(thrown).message;
      client.destroy();
    }
  } else {
    await refuse(client, counters);
  }
  options.onEvent(connectionClosedEvent(connection, counters, failure, options.nowMs()));
}

function admit(client: Socket | TLSSocket, connection: ConnectionFacts, listen: ListenAddress, parts: TargetParts): { outcome: AccessOutcome; root: BackendRoot | null } {
  const { options, issuer, directories, policy } = parts;
  const der = 'encrypted' in client ? client.getPeerX509Certificate()?.raw : undefined;
  const context = { region: options.region, nowMs: options.nowMs(), findCredentials: issuer.find };
  const outcome = decideAccess({
    connection,
    account: options,
    verdict: der === undefined ? null : checkClientCertificate(der, context),
    serverName: 'servername' in client && typeof client.servername === 'string' ? client.servername : null,
    listenerFileSystemId: listen.fileSystemId,
    fileSystemIds: [...directories.keys()],
    accessPoints: options.accessPoints,
    policy: policy.current(),
  });
  if (outcome.kind === 'denied') return { outcome, root: null };
  const { accessPoint, fileSystemId, subject, decision } = outcome;
  const directory = directories.get(fileSystemId)!;
  if (accessPoint === null) return { outcome, root: { name: fileSystemId, directory, user: null } };
  const accessPointDirectory = openAccessPointRoot(accessPoint, directory);
  if (accessPointDirectory === null) {
    const detail = `${fileSystemId} has no directory ${accessPoint.path}, and ${accessPoint.id} does not say how to make it`;
    return { outcome: { kind: 'denied', subject, reason: 'access-point-root-missing', detail, decision }, root: null };
  }
  return { outcome, root: { name: accessPoint.id, directory: accessPointDirectory, user: accessPoint.user } };
}

/** Answers a client that may not mount; the client closes. */
function refuse(client: Duplex, counters: { bytesReceived: number; bytesSent: number }): Promise<void> {
  return new Promise((done) => {
    const refusal = createRefusal();
    client.on('data', (chunk: Buffer) => {
      counters.bytesReceived += chunk.length;
      const step = refusal(chunk);
      if (step.kind === 'not-rpc') {
        client.destroy();
        return;
      }
      counters.bytesSent += step.bytes.length;
      client.write(step.bytes);
    });
    client.once('end', () => client.end());
    if (client.closed) done();
    else client.once('close', () => done());
  });
}
