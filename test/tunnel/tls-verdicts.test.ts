import { constants } from 'node:crypto';
import { expect, test } from 'vitest';
import { createTunnelContext, dialUpstream } from '../../src/tunnel/dial.ts';
import { judge } from './judge.ts';
import { startPeer } from './stage.ts';
import { good, name, named, root, tlsCases } from './tls-cases.ts';

/** The verdicts of docs/tls.md on real servers; test/kernel/hostile-user.test.ts has a user without rights come to the same. */
for (const [sentence, cases] of Object.entries(tlsCases)) {
  test.each(cases)(`${sentence} $what`, async (one) => {
    expect(await judge(one)).toBe(one.verdict);
  });
}

test('a mount target that asks for a renegotiation gets none', async () => {
  const { chain, keyPem } = named(good);
  const peer = await startPeer(
    { certificatePem: chain, privateKeyPem: keyPem },
    { maxVersion: 'TLSv1.2', secureOptions: constants.SSL_OP_LEGACY_SERVER_CONNECT },
  );
  const upstream = await dialUpstream({
    endpoints: [peer.endpoint],
    serverName: name,
    secureContext: createTunnelContext({ trustedRootsPem: [root.pem], serverName: name, client: null }),
    timeoutMs: 20_000,
    signal: new AbortController().signal,
  });
  upstream.socket.on('error', () => {});
  const socket = await peer.connection(0);

  const outcome = await new Promise<string>((resolve) => {
    socket.renegotiate({}, (error) => resolve(error === null ? 'renegotiated' : 'refused'));
    socket.once('error', () => resolve('refused'));
  });

  expect(outcome).toBe('refused');
  upstream.socket.destroy();
  await peer.close();
});
