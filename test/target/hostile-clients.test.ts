import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import tls from 'node:tls';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createRoot } from '../support/tls-certificates.ts';
import { connectTls, openStage, type Stage, unsignedCertificate, whyNoServer } from './stage.ts';

const mebibyte = 1_048_576;
const root = createRoot();
const giant = (form: Parameters<typeof createRoot>[0]) => () => createRoot({ ...form, isAuthority: false });

let stage: Stage;
let clients: Socket[];
beforeEach(async () => {
  if (whyNoServer === null) stage = await openStage();
  clients = [];
});
afterEach(async () => {
  for (const client of clients) client.destroy();
  await stage?.close();
});

async function connectPlain(): Promise<Socket> {
  const client = connect({ host: '127.0.0.1', port: stage.port });
  client.on('error', () => {});
  clients.push(client);
  await once(client, 'connect');
  return client;
}

/** Shakes hands with a certificate; whether the target took it is told by its event. */
function present({ pem, keyPem }: { pem: string; keyPem: string }): void {
  const client = tls.connect({
    host: '127.0.0.1',
    port: stage.port,
    cert: pem,
    key: keyPem,
    rejectUnauthorized: false,
  });
  client.on('error', () => {});
  clients.push(client);
}

const certificates: [what: string, make: () => { pem: string; keyPem: string }, event: object][] = [
  [
    'a chain of three MiB',
    () => ({ pem: root.pem.repeat(2_500), keyPem: root.keyPem }),
    { eventName: 'ConnectionClosed', failure: expect.stringContaining('TLS handshake') },
  ],
  [
    'a certificate for twenty thousand names',
    giant({ names: Array.from({ length: 20_000 }, (_, index) => ({ dns: `n${index}.example` })) }),
    { eventName: 'ConnectionClosed', failure: expect.stringContaining('TLS handshake') },
  ],
  [
    'a certificate with a name of 20 KiB',
    giant({ commonName: 'x'.repeat(20_000) }),
    { eventName: 'NewClientConnection', errorCode: 'AccessDenied' },
  ],
];

test.skipIf(whyNoServer !== null).each(certificates)(
  'a client that presents %s is refused, with an event, and takes no memory',
  async (_what, make, event) => {
    const certificate = make();
    const beforeBytes = process.memoryUsage().rss;

    for (let count = 0; count < 10; count += 1) present(certificate);

    await expect.poll(() => stage.events.length).toBeGreaterThanOrEqual(10);
    expect(stage.events[0]).toMatchObject(event);
    expect(process.memoryUsage().rss - beforeBytes).toBeLessThan(150 * mebibyte);
  },
);

test.skipIf(whyNoServer !== null)(
  'clients that drip their handshake, or their record marks, keep nobody waiting',
  async () => {
    for (const bytes of [Buffer.from([22, 3, 1, 1, 0]), Buffer.alloc(16, 0)]) {
      for (let count = 0; count < 25; count += 1) {
        const slow = await connectPlain();
        slow.write(bytes.subarray(0, 1 + (count % bytes.length)));
      }
    }

    const client = await connectTls(stage, unsignedCertificate());
    clients.push(client);

    await expect.poll(() => stage.events.map(({ eventName }) => eventName)).toContain('NewClientConnection');
  },
);
