import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

export type Leg = 'dialler' | 'server';

/** A TCP proxy on 127.0.0.1 between something that dials and a server, on which faults can be put. */
export interface FaultWire {
  readonly port: number;
  /** Connections accepted so far. */
  accepted(): number;
  /** Connections that are open now. */
  open(): number;
  /** Bytes passed on so far, both directions together. */
  carriedBytes(): number;
  /** Resets both legs of every open connection. */
  reset(): void;
  /** Sends FIN to one leg of every open connection and passes nothing more to it. */
  halfClose(to: Leg): void;
  /** Passes nothing on and reads nothing, on open and new connections, without closing any. */
  silence(): void;
  /** Stops reading from one leg: its sender sees a full window. */
  stopReading(from: Leg): void;
  /** Ends `silence` and `stopReading`. */
  resume(): void;
  /** Passes bytes on in pieces of at most this many; null for no splitting. */
  split(pieceBytes: number | null): void;
  /** New connections are reset as soon as they are accepted. */
  refuse(refusing: boolean): void;
  close(): Promise<void>;
}

/** Opens a wire to the server at `port` on 127.0.0.1. */
export async function openFaultWire(port: number): Promise<FaultWire> {
  const pairs = new Set<Record<Leg, Socket>>();
  let accepted = 0;
  let carriedBytes = 0;
  let pieceBytes: number | null = null;
  let refusing = false;
  let silent = false;

  const server = createServer({ allowHalfOpen: true, noDelay: true }, (dialler) => {
    accepted++;
    dialler.on('error', () => {});
    if (refusing) {
      dialler.resetAndDestroy();
      return;
    }
    const upstream = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
    const pair = { dialler, server: upstream };
    pairs.add(pair);
    carry(dialler, upstream);
    carry(upstream, dialler);
    for (const [own, other] of [
      [dialler, upstream],
      [upstream, dialler],
    ] as const) {
      own.on('error', () => other.resetAndDestroy());
      own.on('close', () => pairs.delete(pair));
    }
    if (silent) for (const socket of [dialler, upstream]) socket.pause();
  });

  function carry(from: Socket, to: Socket): void {
    from.on('data', (chunk: Buffer) => {
      carriedBytes += chunk.length;
      if (!to.writable) return;
      const step = pieceBytes ?? chunk.length;
      for (let offset = 0; offset < chunk.length; offset += step)
        to.write(chunk.subarray(offset, offset + step));
      if (!to.writableNeedDrain) return;
      from.pause();
      to.once('drain', () => {
        if (!silent) from.resume();
      });
    });
    from.on('end', () => to.end());
  }
  const sockets = function* (): Iterable<Socket> {
    for (const pair of pairs) yield* [pair.dialler, pair.server];
  };

  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    accepted: () => accepted,
    open: () => pairs.size,
    carriedBytes: () => carriedBytes,
    reset: () => {
      for (const socket of [...sockets()]) socket.resetAndDestroy();
    },
    halfClose: (to) => {
      for (const pair of pairs) pair[to].end();
    },
    silence: () => {
      silent = true;
      for (const socket of sockets()) socket.pause();
    },
    stopReading: (from) => {
      for (const pair of pairs) pair[from].pause();
    },
    resume: () => {
      silent = false;
      for (const socket of sockets()) socket.resume();
    },
    split: (bytes) => {
      pieceBytes = bytes;
    },
    refuse: (value) => {
      refusing = value;
    },
    close: async () => {
      for (const socket of [...sockets()]) socket.destroy();
      server.close();
      if (server.listening) await once(server, 'close');
    },
  };
}
