import type { Duplex } from 'node:stream';

/** Bytes inside TLS, seen from the mount target. */
export interface JoinCounters {
  bytesReceived: number;
  bytesSent: number;
}

/**
 * Carries bytes between an NFS client and a backend until both directions have ended or one side breaks.
 *
 * End-of-stream passes on as half-close, back-pressure holds in both directions, and whatever ends one side
 * without an end-of-stream destroys the other. Resolves when both are closed.
 */
export function joinStreams(client: Duplex, backend: Duplex, counters: JoinCounters): Promise<void> {
  const closed = Promise.all([whenClosed(client, backend), whenClosed(backend, client)]);
  carry(client, backend, (bytes) => {
    counters.bytesReceived += bytes;
  });
  carry(backend, client, (bytes) => {
    counters.bytesSent += bytes;
  });
  return closed.then(() => undefined);
}

function carry(from: Duplex, to: Duplex, count: (bytes: number) => void): void {
  from.on('data', (chunk: Buffer) => {
    count(chunk.length);
    if (!to.write(chunk)) from.pause();
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
