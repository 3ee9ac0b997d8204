import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import tls from 'node:tls';
import { createTunnelContext, dialUpstream } from '../../src/tunnel/dial.ts';
import type { TlsCase } from './tls-cases.ts';

/** What a tunnel makes of a real server: `accepted`, or the fault's code. */
export async function judge({ presented, server, expected, trusted }: TlsCase): Promise<string> {
  const peer = tls.createServer({ ...server, cert: presented.chain, key: presented.keyPem });
  const connections = new Set<tls.TLSSocket>();
  peer.on('secureConnection', (socket) => connections.add(socket.on('error', () => {})));
  peer.on('tlsClientError', () => {});
  peer.listen(0, '127.0.0.1');
  await once(peer, 'listening');
  const { port } = peer.address() as AddressInfo;
  try {
    const { socket } = await dialUpstream({
      endpoints: [{ address: '127.0.0.1', port }],
      serverName: expected,
      secureContext: createTunnelContext({ trustedRootsPem: trusted, serverName: expected, client: null }),
      timeoutMs: 20_000,
      signal: new AbortController().signal,
    });
    socket.destroy();
    return 'accepted';
  } catch (error) {
    return (error as { code: string }).code;
  } finally {
    for (const socket of connections) socket.destroy();
    peer.close();
  }
}
