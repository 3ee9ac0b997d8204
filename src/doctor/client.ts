import { once } from 'node:events';
import { connect } from 'node:net';
import { createTunnelContext, dialUpstream } from '../tunnel/dial.ts';
import { type ProbeAnswer, probeDirectory } from './nfs-probe.ts';
import type { Subject } from './subject.ts';

/**
 * Asks the mount target for the directory of the mount, as the mount would: through TLS with its client certificate, or
 * without TLS.
 *
 * Errors: `target.*`, `tls.*`, `credentials.*`.
 */
export async function askMountTarget(subject: Subject, accessPointId: string | null): Promise<ProbeAnswer> {
  const { dialTimeoutMs, spec, serverName, trustedRootsPem } = await subject.plan();
  const endpoints = await subject.endpoints();
  // An access point has a root of its own: the path begins there.
  if (!spec.tls) {
    const socket = connect({ host: endpoints[0]!.address, port: endpoints[0]!.port });
    await once(socket, 'connect', { signal: AbortSignal.timeout(dialTimeoutMs) });
    return probeDirectory({ socket, onBytes: (receive) => socket.on('data', receive) }, spec.path, answerMs);
  }
  const client = spec.iam || accessPointId !== null ? await subject.clientCertificate(accessPointId) : null;
  const upstream = await dialUpstream({
    endpoints,
    serverName,
    secureContext: createTunnelContext({ trustedRootsPem, serverName, client }),
    timeoutMs: dialTimeoutMs,
    signal: new AbortController().signal,
  });
  const onBytes = (receive: (bytes: Buffer) => void) =>
    upstream.readInto((bytes) => {
      receive(Buffer.from(bytes));
      return true;
    });
  return probeDirectory({ socket: upstream.socket, onBytes }, spec.path, answerMs);
}

/** How long a mount target that accepted the connection may think, in milliseconds. */
const answerMs = 10_000;
