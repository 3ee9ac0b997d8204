import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { connect, createServer, type Server } from 'node:net';
import type { TlsOptions } from 'node:tls';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { AgentError, type FaultCode } from '../../src/core/errors.ts';
import type { Endpoint, TlsMaterial } from '../../src/core/worker-protocol.ts';
import {
  createTunnelContext,
  dialUpstream,
  renderEndpoint,
  translateDialError,
} from '../../src/tunnel/dial.ts';
import { createTemporaryCa, type TemporaryCertificate } from '../support/temporary-ca.ts';
import { material, type Peer, startPeer } from './stage.ts';

const serverName = 'fs-0123abcd.efs.test-1.example';
const dayMs = 24 * 3_600_000;
const ca = createTemporaryCa();
const certificate = ca.issue({ names: ['*.efs.test-1.example'] });

let undo: (() => Promise<void>)[] = [];
let closedPort = 0;
beforeAll(async () => {
  const server = await listen(() => {});
  closedPort = (server.address() as AddressInfo).port;
  server.close();
});
afterEach(async () => {
  for (const step of undo.reverse()) await step();
  undo = [];
});
afterAll(() => {
  undo = [];
});

test.each(['TLSv1.2', 'TLSv1.3'] as const)('a mount target that speaks %s is accepted', async (version) => {
  const peer = await open(certificate, { minVersion: version, maxVersion: version });

  const upstream = await dial([peer.endpoint]);

  expect(upstream.facts).toMatchObject({
    address: '127.0.0.1',
    port: peer.port,
    tlsVersion: version,
    subject: 'CN=*.efs.test-1.example',
    issuer: 'CN=Temporary Test Root',
  });
  expect(upstream.facts.cipher).toMatch(/AES_\d+_GCM|CHACHA20/);
  expect(upstream.facts.certificateExpiresAtMs).toBeGreaterThan(Date.now());
  upstream.socket.destroy();
});

test('the mount target sees the file system name as SNI, no ALPN, and keeps no session for resumption', async () => {
  const peer = await open(certificate, {});

  const upstream = await dial([peer.endpoint]);

  const seen = await peer.connection(0);
  expect(seen.servername).toBe(serverName);
  expect(seen.alpnProtocol).toBe(false);
  expect(seen.isSessionReused()).toBe(false);
  upstream.socket.destroy();
});

test('the client certificate of the tunnel is presented, and none when it has none', async () => {
  const client = ca.issue({ commonName: 'the client', use: 'client' });
  const peer = await open(certificate, { requestCert: true, rejectUnauthorized: false });

  const withOne = await dial([peer.endpoint], material(ca.rootPem, serverName, client));
  const without = await dial([peer.endpoint]);

  expect((await peer.connection(0)).getPeerCertificate().subject).toMatchObject({ CN: 'the client' });
  expect((await peer.connection(1)).getPeerCertificate()).toEqual({});
  withOne.socket.destroy();
  without.socket.destroy();
});

test('TLS 1.1 is refused', async () => {
  const peer = await open(certificate, {
    minVersion: 'TLSv1.1',
    maxVersion: 'TLSv1.1',
    ciphers: 'DEFAULT:@SECLEVEL=0',
  });

  await expectFault('tls.failed', [peer.endpoint]);
});

test('a suite without forward secrecy is refused', async () => {
  const peer = await open(certificate, { maxVersion: 'TLSv1.2', ciphers: 'AES128-GCM-SHA256' });

  await expectFault('tls.failed', [peer.endpoint]);
});

test('a certificate for another name is refused, and the error tells both names', async () => {
  const peer = await open(ca.issue({ names: ['another.example'] }), {});

  const error = await expectFault('tls.name-mismatch', [peer.endpoint]);

  expect(error.message).toContain('another.example');
  expect(error.message).toContain(serverName);
  expect(error.message).toContain(`127.0.0.1:${peer.port}`);
});

test('an expired certificate is refused, and the error tells its dates and the time here', async () => {
  const peer = await open(
    ca.issue({ names: [serverName], notBeforeMs: Date.UTC(2020, 0, 2), notAfterMs: Date.UTC(2021, 5, 6) }),
    {},
  );

  const error = await expectFault('tls.expired', [peer.endpoint]);

  expect(error.message).toMatch(/expired.*Jan {1,2}2 .*2020.*Jun {1,2}6 .*2021/);
  expect(error.message).toContain(String(new Date().getUTCFullYear()));
});

test('a certificate from the future is refused as one whose time is wrong', async () => {
  const peer = await open(
    ca.issue({ names: [serverName], notBeforeMs: Date.now() + dayMs, notAfterMs: Date.now() + 2 * dayMs }),
    {},
  );

  const error = await expectFault('tls.expired', [peer.endpoint]);

  expect(error.message).toContain('not valid yet');
});

test('a certificate of an unknown authority is refused, and the error names the issuer', async () => {
  const peer = await open(createTemporaryCa('Somebody Else').issue({ names: [serverName] }), {});

  const error = await expectFault('tls.untrusted', [peer.endpoint]);

  expect(error.message).toContain('CN=Somebody Else');
});

test('with no trust anchors nothing is trusted, not even what the system trusts', async () => {
  const peer = await open(certificate, {});

  await expectFault('tls.untrusted', [peer.endpoint], { ...material('', serverName), trustedRootsPem: [] });
});

test('a port on which nothing listens is refused', async () => {
  const error = await expectFault('target.refused', [{ address: '127.0.0.1', port: closedPort }]);

  expect(error.message).toContain(`127.0.0.1:${closedPort}`);
});

test('a server that closes before the handshake is named as closed', async () => {
  const server = await listen((socket) => socket.end());

  await expectFault('target.closed', [endpointOf(server)]);
});

test('a server that resets during the handshake is named as closed', async () => {
  const server = await listen((socket) => socket.once('data', () => socket.resetAndDestroy()));

  await expectFault('target.closed', [endpointOf(server)]);
});

test('a server that is no TLS server is told as a failed handshake', async () => {
  const server = await listen((socket) => socket.write('220 mail.example ESMTP\r\n'));

  await expectFault('tls.failed', [endpointOf(server)]);
});

test('a server that accepts and says nothing is given up within the time limit', async () => {
  const server = await listen(() => {});
  const startedMs = performance.now();

  const error = await expectFault('target.silent', [endpointOf(server)], undefined, 400);

  expect(performance.now() - startedMs).toBeLessThan(1_000);
  expect(error.message).toContain('TLS handshake');
  expect(error.message).toContain('ms');
});

/** Accepts, and begins to speak TLS so much later. */
async function openLate(delayMs: number): Promise<Endpoint> {
  const peer = await open(certificate, {});
  const server = await listen((socket) => {
    setTimeout(() => {
      const onward = connect(peer.port, '127.0.0.1');
      onward.on('error', () => {});
      socket.pipe(onward).pipe(socket);
    }, delayMs);
  });
  return endpointOf(server);
}

test('a mount target that accepts and is slow with the handshake has the whole time limit when there is no other', async () => {
  const endpoint = await openLate(4_200);

  const upstream = await dial([endpoint], undefined, 8_000);

  expect(upstream.facts.port).toBe(endpoint.port);
  expect(upstream.handshakeMs).toBeGreaterThan(4_000);
  upstream.socket.destroy();
});

test('where another address waits, a slow handshake has half of the time limit', async () => {
  const peer = await open(certificate, {});
  const endpoint = await openLate(60_000);

  const upstream = await dial([endpoint, peer.endpoint], undefined, 6_000);

  expect(upstream.facts.port).toBe(peer.port);
  upstream.socket.destroy();
});

test('whoever dials hears of a connection before its handshake is over', async () => {
  const server = await listen(() => {});
  let connections = 0;

  await expect(
    dialUpstream({
      endpoints: [endpointOf(server)],
      serverName,
      secureContext: createTunnelContext(material(ca.rootPem, serverName)),
      timeoutMs: 400,
      signal: new AbortController().signal,
      connected: () => {
        connections += 1;
      },
    }),
  ).rejects.toMatchObject({ code: 'target.silent' });

  expect(connections).toBe(1);
});

test('an address nobody answers for does not hold up the next one', async () => {
  const peer = await open(certificate, {});
  // RFC 5737: an address for documentation; whether it is silent or unreachable here does not matter.
  const upstream = await dial([{ address: '192.0.2.1', port: 2049 }, peer.endpoint]);

  expect(upstream.facts.port).toBe(peer.port);
  upstream.socket.destroy();
});

test('a refused address is followed by the next at once', async () => {
  const peer = await open(certificate, {});
  const startedMs = performance.now();

  const upstream = await dial([{ address: '127.0.0.1', port: closedPort }, peer.endpoint]);

  expect(performance.now() - startedMs).toBeLessThan(250);
  upstream.socket.destroy();
});

test('when all addresses fail the error is of the one that got furthest', async () => {
  const peer = await open(ca.issue({ names: ['another.example'] }), {});

  await expectFault('tls.name-mismatch', [peer.endpoint, { address: '127.0.0.1', port: closedPort }]);
  await expectFault('tls.name-mismatch', [{ address: '127.0.0.1', port: closedPort }, peer.endpoint]);
});

test('without an address the error says so', async () => {
  await expectFault('target.unreachable', []);
});

test('a dial that is not wanted any more ends at once', async () => {
  const server = await listen(() => {});
  const aborting = new AbortController();

  const dialled = dial([endpointOf(server)], undefined, 60_000, aborting.signal);
  aborting.abort();

  await expect(dialled).rejects.toMatchObject({ code: 'interrupted' });
});

test('tunnels that present no certificate and trust the same roots share what OpenSSL keeps of them, and no others do', () => {
  const client = ca.issue({ commonName: 'the client', use: 'client' });
  const other = createTemporaryCa();
  const anonymous = createTunnelContext(material(ca.rootPem, serverName));

  expect(createTunnelContext(material(ca.rootPem, 'another.example'))).toBe(anonymous);
  expect(createTunnelContext(material(ca.rootPem, serverName, client))).not.toBe(anonymous);
  expect(createTunnelContext(material(ca.rootPem, serverName, client))).not.toBe(
    createTunnelContext(material(ca.rootPem, serverName, client)),
  );
  expect(createTunnelContext(material(other.rootPem, serverName))).not.toBe(anonymous);
});

test('texts that are no PEM are a fault of the fault table', () => {
  const broken = {
    ...material(ca.rootPem, serverName),
    client: { certificatePem: 'no', privateKeyPem: 'secret' },
  };

  expect(() => createTunnelContext(broken)).toThrow(
    expect.objectContaining({ code: 'tls.failed', message: expect.not.stringContaining('secret') }),
  );
});

test('whatever a socket reports becomes an error of the connection, and names the endpoint', () => {
  const codes = fc.oneof(
    fc.constantFrom(
      'ECONNREFUSED',
      'EHOSTUNREACH',
      'ENETUNREACH',
      'ETIMEDOUT',
      'EPROTO',
      'ERR_SSL_WRONG_VERSION_NUMBER',
    ),
    fc.string(),
    fc.integer(),
    fc.constant(undefined),
  );
  fc.assert(
    fc.property(codes, fc.string(), (code, text) => {
      const error = translateDialError(Object.assign(new Error(text), { code }), {
        where: '10.1.1.6:2049',
        serverName,
        elapsedMs: 12,
        certificate: null,
        nowMs: 0,
      });

      expect(error).toBeInstanceOf(AgentError);
      expect(error.code).toMatch(/^(target|tls)\./);
      expect(error.message).toContain('10.1.1.6:2049');
    }),
  );
});

test('an IPv6 address is written in brackets', () => {
  expect(renderEndpoint({ address: 'fd00::6', port: 2049 })).toBe('[fd00::6]:2049');
  expect(renderEndpoint({ address: '10.1.1.6', port: 2049 })).toBe('10.1.1.6:2049');
});

function dial(
  endpoints: Endpoint[],
  tls: TlsMaterial = material(ca.rootPem, serverName),
  timeoutMs = 5_000,
  signal = new AbortController().signal,
) {
  return dialUpstream({
    endpoints,
    serverName: tls.serverName,
    secureContext: createTunnelContext(tls),
    timeoutMs,
    signal,
  });
}

async function expectFault(
  code: FaultCode,
  endpoints: Endpoint[],
  tls?: TlsMaterial,
  timeoutMs?: number,
): Promise<AgentError> {
  const error: unknown = await dial(endpoints, tls, timeoutMs).then(
    () => 'connected',
    (thrown: unknown) => thrown,
  );
  expect(error).toMatchObject({ code });
  return error as AgentError;
}

async function open(serverCertificate: TemporaryCertificate, options: TlsOptions): Promise<Peer> {
  const peer = await startPeer(serverCertificate, options);
  undo.push(peer.close);
  return peer;
}

async function listen(serve: (socket: import('node:net').Socket) => void): Promise<Server> {
  const sockets = new Set<import('node:net').Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    serve(socket);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  undo.push(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return server;
}

function endpointOf(server: Server): Endpoint {
  return { address: '127.0.0.1', port: (server.address() as AddressInfo).port };
}
