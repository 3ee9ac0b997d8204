import { constants, randomUUID } from 'node:crypto';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { createServer as createTlsServer, type TLSSocket, type Server as TlsServer } from 'node:tls';
import { AgentError, asAgentError } from '../core/errors.ts';
import { type AccessOutcome, type AccountFacts, type ConnectionFacts, decideAccess } from './access.ts';
import { type AccessPoint, openAccessPointRoot } from './access-point.ts';
import { takeBind } from './bind.ts';
import type { BoundClients } from './bound-clients.ts';
import { checkClientCertificate } from './client-certificate.ts';
import type { CredentialIssuer } from './credentials.ts';
import { connectionClosedEvent, newClientConnectionEvent, type TargetEvent } from './events.ts';
import { type Backend, type BackendRoot, clientAddressFor } from './ganesha.ts';
import { type JoinCounters, joinStreams } from './join.ts';
import { Pace } from './pace.ts';
import type { Policy } from './policy.ts';
import { createRefusal } from './refusal.ts';
import type { ServerIdentity } from './server-certificate.ts';

/** An address where the mount target listens; port 0 = any free one. */
export interface ListenAddress {
  address: string;
  port: number;
  /** The file system whose mount target this address is; null = all of them. */
  fileSystemId: string | null;
}

/** The policy in force, read anew when it is asked for. */
export interface PolicySource {
  current(): Policy | null;
  /** Errors: `config.*`; the policy in force then stays. */
  reload(): void;
}

export interface Backends {
  /** The running server of a root; starts it, also after it has died. */
  open(root: BackendRoot): Promise<Backend>;
  close(): Promise<void>;
}

/** Everything that a connection is decided and served with. */
export interface ListenerParts {
  account: AccountFacts;
  identity: ServerIdentity;
  issuer: CredentialIssuer;
  policy: PolicySource;
  /** File-system id -> its directory. */
  directories: ReadonlyMap<string, string>;
  accessPoints: readonly AccessPoint[];
  backends: Backends;
  boundClients: BoundClients;
  /** What one client connection may carry, both directions together; null = anything. */
  limitBytesPerSecond: number | null;
  onEvent: (event: TargetEvent) => void;
  nowMs: () => number;
}

/** First byte of a TLS record that holds a handshake. Source: RFC 8446 section 5.1. */
const tlsHandshakeByte = 0x16;

/**
 * Opens one address of the mount target.
 *
 * Errors: `port.taken`. `close` ends its connections too.
 */
export async function openListener(
  listen: ListenAddress,
  parts: ListenerParts,
): Promise<{ port: number; close: () => Promise<void> }> {
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

function openTlsServer(listen: ListenAddress, parts: ListenerParts): TlsServer {
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
    parts.onEvent(connectionClosedEvent(connection, none, `TLS handshake: ${error.message}`, parts.nowMs()));
  });
  return server;
}

/** Tells TLS from plain NFS by the first byte: a mount target speaks both on its one port. */
function recognise(socket: Socket, tlsServer: TlsServer, listen: ListenAddress, parts: ListenerParts): void {
  const connection = describeConnection(socket, 'tcp');
  const { onEvent, nowMs } = parts;
  const onClose = () =>
    onEvent(
      connectionClosedEvent(connection, { bytesReceived: 0, bytesSent: 0 }, 'closed without a byte', nowMs()),
    );
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
async function serve(
  client: Socket | TLSSocket,
  connection: ConnectionFacts,
  listen: ListenAddress,
  parts: ListenerParts,
): Promise<void> {
  const counters = { bytesReceived: 0, bytesSent: 0 };
  let failure: string | null = null;
  // The close event follows.
  client.on('error', () => {});
  try {
    const { outcome, root } = admit(client, connection, listen, parts);
    parts.onEvent(newClientConnectionEvent(parts.account, connection, outcome, parts.nowMs()));
    const bind = await takeBind(client);
    if (outcome.kind === 'granted' && root !== null) {
      const { ClientWrite: write, ClientRootAccess: rootAccess } = outcome.decision.permissions;
      const localAddress = clientAddressFor({ write, root: rootAccess });
      const reach = async () => {
        const { port } = await parts.backends.open(root);
        return connect({ host: '127.0.0.1', port, localAddress, allowHalfOpen: true, noDelay: true });
      };
      const limit = parts.limitBytesPerSecond;
      const pace = limit === null ? null : new Pace(limit, () => performance.now());
      if (bind === null) await joinStreams(client, await reach(), counters, pace);
      else
        await parts.boundClients.serve(client, bind, `${root.name} ${localAddress}`, reach, counters, pace);
    } else {
      if (bind !== null) parts.boundClients.refuse(client, bind);
      await refuse(client, counters);
    }
  } catch (thrown) {
    failure = asAgentError(thrown).message;
    client.destroy();
  }
  parts.onEvent(connectionClosedEvent(connection, counters, failure, parts.nowMs()));
}

/** Who is it, what does it get, and which directory is its root. */
function admit(
  client: Socket | TLSSocket,
  connection: ConnectionFacts,
  listen: ListenAddress,
  parts: ListenerParts,
): { outcome: AccessOutcome; root: BackendRoot | null } {
  const { account, issuer, directories, accessPoints, nowMs } = parts;
  const der = 'encrypted' in client ? client.getPeerX509Certificate()?.raw : undefined;
  const context = { region: account.region, nowMs: nowMs(), findCredentials: issuer.find };
  const outcome = decideAccess({
    connection,
    account,
    verdict: der === undefined ? null : checkClientCertificate(der, context),
    serverName: 'servername' in client && typeof client.servername === 'string' ? client.servername : null,
    listenerFileSystemId: listen.fileSystemId,
    fileSystemIds: [...directories.keys()],
    accessPoints,
    policy: parts.policy.current(),
  });
  if (outcome.kind === 'denied') return { outcome, root: null };
  const { accessPoint, fileSystemId, subject, decision } = outcome;
  const directory = directories.get(fileSystemId)!;
  if (accessPoint === null) return { outcome, root: { name: fileSystemId, directory, user: null } };
  const accessPointDirectory = openAccessPointRoot(accessPoint, directory);
  if (accessPointDirectory === null) {
    const detail = `${fileSystemId} has no directory ${accessPoint.path}, and ${accessPoint.id} does not say how to make it`;
    return {
      outcome: { kind: 'denied', subject, reason: 'access-point-root-missing', detail, decision },
      root: null,
    };
  }
  return { outcome, root: { name: accessPoint.id, directory: accessPointDirectory, user: accessPoint.user } };
}

/** Answers a client that may not mount, until it closes. */
function refuse(client: Socket | TLSSocket, counters: JoinCounters): Promise<void> {
  return new Promise((done) => {
    const refusal = createRefusal();
    let denied = false;
    client.on('data', (chunk: Buffer) => {
      if (denied) return;
      counters.bytesReceived += chunk.length;
      const step = refusal(chunk);
      if (step.kind === 'not-rpc') {
        client.destroy();
        return;
      }
      counters.bytesSent += step.bytes.length;
      client.write(step.bytes);
      denied = step.denied;
      if (denied) client.end();
    });
    client.once('end', () => client.end());
    // Its first byte was looked at, which has paused it.
    client.resume();
    if (client.closed) done();
    else client.once('close', () => done());
  });
}
