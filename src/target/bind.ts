import type { Duplex } from 'node:stream';

/** A bind call: the connection wants to be one of several that belong together. */
export interface Bind {
  xid: number;
  form: 'current' | 'former';
  /** UUID in hexadecimal. */
  proxyId: string;
  incarnation: bigint;
}

/** What READY replies say about having more connections. */
export interface Multiplexing {
  maxConnections: number;
  /** Bytes per second from which a client should have more than one. */
  thresholdBytesPerSecond: number;
}

const callBytes = 76;
const partitionBytes = 64;
const forms = {
  current: { program: 400_123, procedure: 2 },
  former: { program: 100_200, procedure: 1 },
} as const;
const types = { retryLater: 1, ready: 3, error: 4 } as const;

/**
 * Reads a bind call from the first bytes of a connection: `null` when they are something else, `undefined` while
 * that cannot be told.
 *
 * Source: specification 3.4.
 */
export function parseBind(bytes: Buffer): Bind | null | undefined {
  const mark = Buffer.from([0x80, 0, 0, callBytes - 4]);
  if (!mark.subarray(0, bytes.length).equals(bytes.subarray(0, 4))) return null;
  if (bytes.length < callBytes) return undefined;
  const word = (at: number) => bytes.readUInt32BE(at);
  const form = (['current', 'former'] as const).find(
    (name) => forms[name].program === word(16) && forms[name].procedure === word(24),
  );
  const isBind = word(8) === 0 && word(12) === 2 && word(20) === 1 && word(44) === 16 && word(64) === 8;
  if (form === undefined || !isBind || bytes.length > callBytes) return null;
  return {
    xid: word(4),
    form,
    proxyId: bytes.toString('hex', 48, 64),
    incarnation: bytes.readBigInt64BE(68),
  };
}

export type BindVerdict =
  | { type: 'ready'; partition: Buffer }
  | { type: 'retryLater' | 'error'; message: string };

/** The reply to a bind call, with its record mark. */
export function formatBindReply(bind: Bind, verdict: BindVerdict, multiplexing: Multiplexing): Buffer {
  const { maxConnections, thresholdBytesPerSecond } = multiplexing;
  const durationsSec = bind.form === 'current' ? [1, 1] : [1];
  const payload = Buffer.concat([
    words(bind.xid, 1, 0, 0, 0, 0, types[verdict.type]),
    verdict.type === 'ready' ? verdict.partition.subarray(0, partitionBytes) : xdrString(verdict.message),
    words(maxConnections, thresholdBytesPerSecond, ...durationsSec),
  ]);
  return Buffer.concat([words(0x8000_0000 + payload.length), payload]);
}

/**
 * Looks at the first bytes of a client without taking them, unless they are a bind call.
 *
 * Resolves with null for any other client, also for one that has gone.
 */
export function takeBind(client: Duplex): Promise<Bind | null> {
  return new Promise((resolve) => {
    let received: Buffer = Buffer.alloc(0);
    const finish = (bind: Bind | null): void => {
      client.off('data', onData).off('end', onEnd).off('close', onEnd);
      client.pause();
      if (bind === null && received.length > 0) client.unshift(received);
      resolve(bind);
    };
    const onEnd = () => finish(null);
    const onData = (chunk: Buffer) => {
      received = Buffer.concat([received, chunk]);
      const bind = parseBind(received);
      if (bind !== undefined) finish(bind);
    };
    client.on('data', onData).on('end', onEnd).on('close', onEnd);
    if (client.closed) finish(null);
    else client.resume();
  });
}

function words(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => {
    bytes.writeUInt32BE(value >>> 0, 4 * index);
  });
  return bytes;
}

function xdrString(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([words(bytes.length), bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
}
