/**
 * The bind call, by which a client asks a mount target to treat several connections as one.
 *
 * Source: specification 3.2 and 3.4; RFC 5531 section 9; RFC 4506 for the encoding.
 */

/** Who binds: connections with the same identity belong to one NFS client connection. */
export interface ProxyIdentity {
  /** UUID, 16 bytes. */
  id: Uint8Array;
  /** Higher for each client connection served under this id. */
  incarnation: bigint;
}

/** The call exists in two forms, of program and procedure; mount targets may know either. */
export type BindForm = 'current' | 'former';

/** When a mount target allows more connections. Out of a bind reply; signed 32-bit numbers, not yet judged. */
export interface ScaleSettings {
  maxConnections: number;
  /** Bytes per second, both directions together; negative = never. */
  thresholdBytesPerSec: number;
  /** For how long the threshold must be reached. */
  breachedSec: number;
}

export type BindReply =
  /** Bound; `partition` in hexadecimal. */
  | { kind: 'ready'; partition: string; settings: ScaleSettings }
  /** Not bound; the connection serves NFS all the same. */
  | { kind: 'retry' | 'preferred' | 'refused'; settings: ScaleSettings }
  /** The server answered as RPC servers answer what they do not know: the connection is as good as new. */
  | { kind: 'unsupported' }
  /** Anything else: the connection must not be used. */
  | { kind: 'surprise'; why: string };

const forms = {
  current: { program: 400_123, version: 1, procedure: 2, settingsWords: 4 },
  former: { program: 100_200, version: 1, procedure: 1, settingsWords: 3 },
} as const;
/** No reply of this kind is longer; a longer one is none. */
export const maxBindReplyBytes = 4_096;
const partitionBytes = 64;
const replyType = { retry: 0, preferred: 2, ready: 3 } as const;

/** One bind call with its record mark. */
export function encodeBindCall(form: BindForm, xid: number, identity: ProxyIdentity): Buffer {
  const { program, version, procedure } = forms[form];
  const words = [xid, 0, 2, program, version, procedure, 0, 0, 0, 0, identity.id.length];
  const bytes = Buffer.alloc(4 + 4 * words.length + identity.id.length + 12);
  bytes.writeUInt32BE(0x8000_0000 + bytes.length - 4, 0);
  words.forEach((word, index) => {
    bytes.writeUInt32BE(word, 4 + 4 * index);
  });
  const idAt = 4 + 4 * words.length;
  bytes.set(identity.id, idAt);
  bytes.writeUInt32BE(8, idAt + identity.id.length);
  bytes.writeBigInt64BE(identity.incarnation, idAt + identity.id.length + 4);
  return bytes;
}

/**
 * Reads the reply to a bind call from everything that came after it; null while it is not whole.
 *
 * Errors: none; what is no proper reply to this call is a `surprise`, also a byte more than the reply.
 */
export function parseBindReply(form: BindForm, xid: number, received: Buffer): BindReply | null {
  if (received.length < 4) return null;
  const mark = received.readUInt32BE(0);
  const payloadBytes = mark & 0x7fff_ffff;
  if (mark < 0x8000_0000) return surprise('the reply comes in fragments');
  if (payloadBytes > maxBindReplyBytes) return surprise(`the reply has ${payloadBytes} bytes`);
  if (received.length < 4 + payloadBytes) return null;
  if (received.length > 4 + payloadBytes) return surprise('bytes follow the reply');
  return parseReply(form, xid, received.subarray(4));
}

function parseReply(form: BindForm, xid: number, reply: Buffer): BindReply {
  let at = 0;
  const isLeft = (bytes: number) => at + bytes <= reply.length;
  const word = (): number => {
    at += 4;
    return reply.readInt32BE(at - 4);
  };
  if (!isLeft(12)) return surprise('the reply is cut short');
  if (word() >>> 0 !== xid) return surprise('the reply belongs to another call');
  if (word() !== 1) return surprise('a call came in place of the reply');
  if (word() !== 0) return surprise('the call was denied');
  if (!isLeft(8)) return surprise('the reply is cut short');
  at += 4;
  const verifierBytes = word() >>> 0;
  at += padded(verifierBytes);
  if (!isLeft(4)) return surprise('the reply is cut short');
  const status = word();
  if (status !== 0) {
    return status >= 1 && status <= 5 ? { kind: 'unsupported' } : surprise(`accept status ${status}`);
  }
  if (!isLeft(4)) return surprise('the reply is cut short');

  const type = word();
  let partition: string | null = null;
  if (type === replyType.ready || type === replyType.preferred) {
    if (!isLeft(partitionBytes)) return surprise('the reply is cut short');
    partition = reply.toString('hex', at, at + partitionBytes);
    at += partitionBytes;
  } else if (type === 0 || type === 1 || type === 4) {
    if (!isLeft(4)) return surprise('the reply is cut short');
    const messageBytes = word() >>> 0;
    at += padded(messageBytes);
  }
  if (!isLeft(4 * forms[form].settingsWords)) return surprise('the reply is cut short');
  const settings = { maxConnections: word(), thresholdBytesPerSec: word(), breachedSec: word() };
  if (type === replyType.ready) return { kind: 'ready', partition: partition!, settings };
  if (type === replyType.retry) return { kind: 'retry', settings };
  return { kind: type === replyType.preferred ? 'preferred' : 'refused', settings };
}

function padded(bytes: number): number {
  return Math.ceil(bytes / 4) * 4;
}

function surprise(why: string): BindReply {
  return { kind: 'surprise', why };
}
