import type { Duplex } from 'node:stream';
import type { Pace } from './pace.ts';

/** Bytes inside TLS, seen from the mount target. */
export interface JoinCounters {
  bytesReceived: number;
  bytesSent: number;
}

/**
 * Carries bytes between an NFS client and a backend until both directions have ended or one side breaks.
 *
 * End-of-stream passes on as half-close, back-pressure holds in both directions, and whatever ends one side
 * without an end-of-stream destroys the other. Resolves when both are closed. Both directions together keep to `pace`.
 */
export function joinStreams(
  client: Duplex,
  backend: Duplex,
  counters: JoinCounters,
  pace: Pace | null = null,
): Promise<void> {
  const closed = Promise.all([whenClosed(client, backend), whenClosed(backend, client)]);
  carry(client, backend, (bytes) => {
    counters.bytesReceived += bytes;
    return pace?.take(bytes) ?? 0;
  });
  carry(backend, client, (bytes) => {
    counters.bytesSent += bytes;
    return pace?.take(bytes) ?? 0;
  });
  return closed.then(() => undefined);
}

/** @param count says how many milliseconds to wait after these bytes. */
function carry(from: Duplex, to: Duplex, count: (bytes: number) => number): void {
  from.on('data', (chunk: Buffer) => {
    const delayMs = count(chunk.length);
    const isTaken = to.write(chunk);
    if (!isTaken || delayMs > 0) from.pause();
    if (isTaken && delayMs > 0) setTimeout(() => from.resume(), delayMs);
  });
  to.on('drain', () => from.resume());
  from.on('end', () => to.end());
  // A stream whose first byte was looked at has been paused.
  from.resume();
}

function whenClosed(stream: Duplex, other: Duplex): Promise<void> {
  return new Promise((resolve) => {
    const finish = () => {
      // After an orderly end the other side still has bytes to deliver; it closes by itself.
      if (!stream.readableEnded || !stream.writableFinished) other.destroy();
      resolve();
    };
    // The close event that follows every error is the one acted on.
    stream.on('error', () => {});
    if (stream.closed) finish();
    else stream.once('close', finish);
  });
}
