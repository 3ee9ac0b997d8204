import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { expect, test } from 'vitest';
import type { Endpoint } from '../../src/core/worker-protocol.ts';
import { openFaultWire } from '../support/fault-wire.ts';
import {
  connectTo,
  deadlineMs,
  endOf,
  material,
  type Peer,
  read,
  serverName,
  startPeer,
  useTunnelStage,
  type Worker,
} from './stage.ts';

const stage = useTunnelStage();
const nobody = { uid: 65_534, gid: 65_534 };

async function open(options: Parameters<typeof startPeer>[1] = {}): Promise<Peer> {
  const peer = await startPeer(stage.certificate, options);
  stage.atEnd(peer.close);
  return peer;
}

function probe(worker: Worker, requestId: number, endpoints: Endpoint[]): void {
  worker.tell({ kind: 'tunnel.probe', tunnelId: 't', requestId, endpoints });
}

test('the connection of the probe serves the first session, and the second gets its own', async () => {
  const worker = await stage.startTunnel();
  const peer = await open();
  const port = await worker.listen('t', [peer.endpoint]);

  probe(worker, 1, [peer.endpoint]);
  const done = await worker.hears('probe.done');
  const first = await connectTo(port);
  first.write('first');
  await read(first, 5);

  expect(done.upstream).toMatchObject({ address: '127.0.0.1', port: peer.port, subject: `CN=${serverName}` });
  expect(peer.connections).toHaveLength(1);
  const second = await connectTo(port);
  second.write('second');
  await read(second, 6);
  expect(peer.connections).toHaveLength(2);
});

test('a warm connection that the mount target has closed is not used', async () => {
  const worker = await stage.startTunnel();
  const peer = await open();
  const port = await worker.listen('t', [peer.endpoint]);
  probe(worker, 1, [peer.endpoint]);
  await worker.hears('probe.done');

  const warm = await peer.connection(0);
  warm.end();
  await endOf(warm);
  const client = await connectTo(port);
  client.write('hello');

  expect((await read(client, 5)).toString()).toBe('hello');
  expect(peer.connections).toHaveLength(2);
});

test('a warm connection on which the mount target speaks first is not used', async () => {
  const worker = await stage.startTunnel();
  const peer = await open();
  const port = await worker.listen('t', [peer.endpoint]);
  probe(worker, 1, [peer.endpoint]);
  await worker.hears('probe.done');

  const warm = await peer.connection(0);
  warm.write('surprise');
  await endOf(warm);
  const client = await connectTo(port);
  client.write('hello');

  expect((await read(client, 5)).toString()).toBe('hello');
});

test('a failed probe says why', async () => {
  const worker = await stage.startTunnel();
  const peer = await startPeer(stage.ca.issue({ names: ['another.example'] }));
  stage.atEnd(peer.close);

  probe(worker, 7, [peer.endpoint]);

  const failed = await worker.hears('probe.failed');
  expect(failed).toMatchObject({ requestId: 7, error: { code: 'tls.name-mismatch' } });
  expect(failed.error.message).toContain('another.example');
});

test('a probe of a tunnel that is not open fails', async () => {
  const worker = await stage.startTunnel();

  worker.tell({ kind: 'tunnel.probe', tunnelId: 'unknown', requestId: 8, endpoints: [] });

  expect(await worker.hears('probe.failed')).toMatchObject({
    tunnelId: 'unknown',
    error: { code: 'agent.protocol' },
  });
});

test('certificates that cannot be used are told by the probe, without their text', async () => {
  const worker = await stage.startTunnel();
  const client = { certificatePem: 'wrong certificate text', privateKeyPem: 'wrong key text' };

  worker.tell({
    kind: 'tunnel.open',
    tunnelId: 'u',
    tls: material(stage.ca.rootPem, serverName, client),
    dialTimeoutMs: 500,
  });
  worker.tell({ kind: 'tunnel.probe', tunnelId: 'u', requestId: 9, endpoints: [] });

  expect(await worker.hears('probe.failed')).toMatchObject({ error: { code: 'tls.failed' } });
  expect(JSON.stringify(worker.said)).not.toContain('wrong');
});

test('while the mount target is down the NFS client is held, and served as soon as it is back', async () => {
  const worker = await stage.startTunnel();
  const peer = await open();
  const wire = await openFaultWire(peer.port);
  stage.atEnd(wire.close);
  wire.refuse(true);
  const port = await worker.listen('t', [{ address: '127.0.0.1', port: wire.port }]);

  const client = await connectTo(port);
  client.write('patience');
  await expect.poll(() => wire.accepted(), { timeout: deadlineMs }).toBeGreaterThan(3);
  expect(client.destroyed).toBe(false);
  wire.refuse(false);

  expect((await read(client, 8)).toString()).toBe('patience');
  expect(worker.said.filter(({ kind }) => kind === 'endpoints.wanted').length).toBeGreaterThanOrEqual(3);
  const warnings = worker.said.filter(
    (m) => m.kind === 'log' && m.event === 'upstream.failed' && m.level === 'warn',
  );
  expect(warnings).toHaveLength(1);
  expect(warnings[0]).toMatchObject({ fields: { code: 'target.closed' } });
});

test('a held NFS client is served from the new address when the agent sends one', async () => {
  const worker = await stage.startTunnel();
  const peer = await open();
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const gone = { address: '127.0.0.1', port: (server.address() as { port: number }).port };
  server.close();
  const port = await worker.listen('t', [gone]);

  const client = await connectTo(port);
  client.write('moved');
  await worker.hears('endpoints.wanted');
  worker.tell({ kind: 'tunnel.endpoints', tunnelId: 't', endpoints: [peer.endpoint] });

  expect((await read(client, 5)).toString()).toBe('moved');
});

test('a held NFS client that goes away ends its session', async () => {
  const worker = await stage.startTunnel();
  const port = await worker.listen('t', []);
  const client = await connectTo(port);
  client.write('hello');
  await worker.hears('endpoints.wanted');

  client.resetAndDestroy();

  expect(await worker.hears('session.closed')).toMatchObject({ cause: 'local-reset', bytesUp: 5 });
});

test('a held NFS client that ends its side ends its session', async () => {
  const worker = await stage.startTunnel();
  const port = await worker.listen('t', []);
  const client = await connectTo(port);
  client.write('hello');
  await worker.hears('endpoints.wanted');

  client.end();

  expect(await worker.hears('session.closed')).toMatchObject({ cause: 'upstream-unreachable' });
});

test('new certificates serve new connections while the old ones go on', async () => {
  const worker = await stage.startTunnel();
  const peer = await open({ requestCert: true, rejectUnauthorized: false });
  const port = await worker.listen('t', [peer.endpoint]);
  const named = (commonName: string) =>
    material(stage.ca.rootPem, serverName, stage.ca.issue({ commonName, use: 'client' }));

  worker.tell({ kind: 'tunnel.open', tunnelId: 't', tls: named('old'), dialTimeoutMs: 2_000 });
  const first = await connectTo(port);
  first.write('1');
  await read(first, 1);
  worker.tell({ kind: 'tunnel.open', tunnelId: 't', tls: named('new'), dialTimeoutMs: 2_000 });
  const second = await connectTo(port);
  second.write('2');
  await read(second, 1);
  first.write('still here');

  expect((await read(first, 10)).toString()).toBe('still here');
  expect(peer.connections.map((socket) => socket.getPeerCertificate().subject.CN)).toEqual(['old', 'new']);
});

test('closing a tunnel ends its sessions and its warm connection, and no other tunnel', async () => {
  const worker = await stage.startTunnel();
  const peer = await open();
  worker.tell({
    kind: 'tunnel.open',
    tunnelId: 'u',
    tls: material(stage.ca.rootPem, serverName),
    dialTimeoutMs: 2_000,
  });
  const client = await connectTo(await worker.listen('t', [peer.endpoint]));
  const other = await connectTo(await worker.listen('u', [peer.endpoint]));
  for (const socket of [client, other]) {
    socket.write('x');
    await read(socket, 1);
  }
  probe(worker, 1, [peer.endpoint]);
  await worker.hears('probe.done');
  const ended = endOf(client);

  worker.tell({ kind: 'tunnel.close', tunnelId: 't' });

  await worker.hears('tunnel.closed');
  expect(await ended).toBe('reset');
  expect(await worker.hears('session.closed')).toMatchObject({
    tunnelId: 't',
    cause: 'tunnel-closed',
    bytesUp: 1,
    bytesDown: 1,
  });
  await expect.poll(() => peer.connections.filter((socket) => !socket.destroyed).length).toBe(1);
  other.write('y');
  expect((await read(other, 1)).toString()).toBe('y');
  expect((await worker.totals()).tunnels).toMatchObject([
    { tunnelId: 'u', sessions: 1, bytesUp: 2, bytesDown: 2 },
  ]);
});

test('a session for a tunnel that is not open is reset and reported', async () => {
  const worker = await stage.startTunnel();
  const client = await connectTo(await worker.listen('unknown', []));

  expect(await endOf(client)).toBe('reset');
  expect(await worker.hears('session.closed')).toMatchObject({ tunnelId: 'unknown', cause: 'tunnel-closed' });
});

test('the log tells of the accepted connection, the mount target and its certificate, and the end', async () => {
  const worker = await stage.startTunnel();
  const peer = await open();
  const client = await connectTo(await worker.listen('t', [peer.endpoint]));
  client.write('hello');
  await read(client, 5);
  client.end();
  await endOf(client);

  const fields = async (event: string) => (await worker.logs(event)).fields;
  expect(await fields('session.accepted')).toMatchObject({ tunnel: 't', session: 1 });
  expect(await fields('upstream.connected')).toMatchObject({ endpoint: `127.0.0.1:${peer.port}` });
  expect(await fields('certificate.accepted')).toMatchObject({
    depth: 0,
    subject: `CN=${serverName}`,
    issuer: 'CN=Temporary Test Root',
    serverName,
  });
  expect(await fields('session.closed')).toMatchObject({ cause: 'local-end', bytesUp: 5, bytesDown: 5 });
});

test('when the agent is gone the open sessions go on, and the worker leaves with the last one', async () => {
  const worker = await stage.startTunnel();
  const peer = await open();
  const wire = await openFaultWire(peer.port);
  stage.atEnd(wire.close);
  const port = await worker.listen('t', [{ address: '127.0.0.1', port: wire.port }]);
  const first = await connectTo(port);
  first.write('a');
  await read(first, 1);
  wire.refuse(true);
  const held = await connectTo(port);
  held.write('held');
  await worker.hears('endpoints.wanted');
  const exited = once(worker.child, 'exit');

  worker.child.disconnect();
  first.write('b');
  expect((await read(first, 1)).toString()).toBe('b');
  wire.refuse(false);
  expect((await read(held, 4)).toString()).toBe('held');
  first.end();
  held.end();

  expect(await exited).toEqual([0, null]);
});

test('when the agent is gone and there is no session the worker leaves, also with a warm connection', async () => {
  const worker = await stage.startTunnel();
  const peer = await open();
  probe(worker, 1, [peer.endpoint]);
  await worker.hears('probe.done');
  const exited = once(worker.child, 'exit');

  worker.child.disconnect();

  expect(await exited).toEqual([0, null]);
});

test('SIGTERM ends the worker at once; SIGHUP, SIGINT and SIGPIPE do not', async () => {
  const worker = await stage.startTunnel();
  const peer = await open();
  const client = await connectTo(await worker.listen('t', [peer.endpoint]));
  await worker.hears('ready');
  for (const signal of ['SIGHUP', 'SIGINT', 'SIGPIPE'] as const) {
    worker.child.kill(signal);
    client.write('x');
    expect((await read(client, 1)).toString()).toBe('x');
  }
  const exited = once(worker.child, 'exit');

  worker.child.kill('SIGTERM');

  expect(await exited).toEqual([0, null]);
});

test.runIf(process.getuid?.() === 0)(
  'started by root it serves as the given user, without any capability',
  async () => {
    const worker = await stage.startTunnel({ dropTo: nobody });
    const peer = await open();
    const { pid } = await worker.hears('ready');
    const client = await connectTo(await worker.listen('t', [peer.endpoint]));
    client.write('x');
    await read(client, 1);

    const status = await readFile(`/proc/${pid}/status`, 'utf8');

    expect(status).toMatch(/^Uid:\t65534\t65534\t65534\t65534$/m);
    expect(status).toMatch(/^Gid:\t65534\t65534\t65534\t65534$/m);
    expect(status).toMatch(/^Groups:\s*$/m);
    expect(status).toMatch(/^CapEff:\t0+$/m);
    expect(status).toMatch(/^CapPrm:\t0+$/m);
  },
);

test.runIf(process.getuid?.() === 0)(
  'a worker that cannot give up root says so and exits with 1',
  async () => {
    const worker = await stage.startWorker({ dropTo: { uid: 0, gid: -2 } });
    const exited = once(worker.child, 'exit');

    expect(await worker.logs('worker.privileges-kept')).toMatchObject({ level: 'error' });
    expect(await exited).toEqual([1, null]);
  },
);

if (process.getuid?.() !== 0) console.warn('skipped: giving up root needs root; run these tests as root');
