// The fault proxy in front of the mount target: a process of its own in the mount target's network. It does what its
// parent says over IPC: `{ id, action, value }`, answered by `{ id }`.
import { readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';

const [targetPort, impostorPem] = process.argv.slice(2);
const listenPort = 2049;
const slowTickMs = 100;

const pairs = new Set();
let upstreamPort = Number(targetPort);
let hanging = false;
/** What may be read from each client in a second; null = anything. */
let slowBytesPerSecond = null;

const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
  client.on('error', () => {});
  if (hanging) {
    // Accepted, and never a byte in answer.
    const pair = { client, target: null };
    pairs.add(pair);
    client.on('close', () => pairs.delete(pair));
    return;
  }
  const target = connect({ port: upstreamPort, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
  const pair = { client, target, credit: 0 };
  pairs.add(pair);
  for (const [own, other] of [
    [client, target],
    [target, client],
  ]) {
    own.on('data', (chunk) => {
      if (own === client && slowBytesPerSecond !== null) {
        pair.credit -= chunk.length;
        if (pair.credit < 0) client.pause();
      }
      if (!other.writable || other.write(chunk)) return;
      own.pause();
      other.once('drain', () => own.resume());
    });
    own.on('end', () => other.end());
    own.on('error', () => other.resetAndDestroy());
    own.on('close', () => pairs.delete(pair));
  }
});

const impostor = createTlsServer(
  { key: readFileSync(impostorPem), cert: readFileSync(impostorPem) },
  (socket) => socket.on('error', () => {}),
);
impostor.on('tlsClientError', () => {});
impostor.listen(0, '127.0.0.1');

setInterval(() => {
  if (slowBytesPerSecond === null) return;
  const portion = (slowBytesPerSecond * slowTickMs) / 1000;
  for (const pair of pairs) {
    pair.credit = Math.min(pair.credit + portion, portion);
    if (pair.credit >= 0) pair.client.resume();
  }
}, slowTickMs);

const actions = {
  reset() {
    for (const { client, target } of [...pairs]) {
      client.resetAndDestroy();
      target?.resetAndDestroy();
    }
  },
  fin() {
    for (const { client, target } of pairs) {
      client.end();
      target?.end();
    }
  },
  halfClose(side) {
    for (const pair of pairs) pair[side]?.end();
  },
  hang(value) {
    hanging = value;
    // Those that hang go on hanging.
    if (hanging) actions.reset();
  },
  impersonate(value) {
    upstreamPort = value ? impostor.address().port : Number(targetPort);
    if (value) actions.reset();
  },
  slow(value) {
    slowBytesPerSecond = value;
    for (const pair of pairs) {
      pair.credit = 0;
      pair.client.resume();
    }
  },
};

process.on('message', ({ id, action, value }) => {
  actions[action](value);
  process.send({ id });
});
process.on('disconnect', () => process.exit(0));
server.listen(listenPort, '0.0.0.0', () => process.send({ id: 0 }));
