/** ONC RPC messages, written from RFC 5531 and not with the code under test. */

function mark(payloadBytes: number, isLast: boolean): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE((isLast ? 0x8000_0000 : 0) + payloadBytes);
  return bytes;
}

/** One record in fragments whose payloads have these sizes at most; one fragment when none are given. */
export function record(payload: Buffer, fragmentBytes: readonly number[] = []): Buffer {
  const pieces: Buffer[] = [];
  let at = 0;
  for (const size of fragmentBytes) {
    const piece = payload.subarray(at, at + size);
    pieces.push(mark(piece.length, false), piece);
    at += piece.length;
  }
  const rest = payload.subarray(at);
  return Buffer.concat([...pieces, mark(rest.length, true), rest]);
}

/** The payload of a message: transaction id, type, then filling up to its whole size. */
export function message(xid: number, type: number, payloadBytes: number, fill = 0): Buffer {
  const bytes = Buffer.alloc(Math.max(payloadBytes, 12), fill);
  bytes.writeUInt32BE(xid, 0);
  bytes.writeUInt32BE(type, 4);
  bytes.writeUInt32BE(type === 0 ? 2 : 0, 8);
  return bytes;
}

/** A call record. */
export function call(xid: number, payloadBytes = 40, fill = 0): Buffer {
  return record(message(xid, 0, payloadBytes, fill));
}

/** A reply record. */
export function reply(xid: number, payloadBytes = 24, fill = 0): Buffer {
  return record(message(xid, 1, payloadBytes, fill));
}

export interface ReadRecord {
  xid: number;
  isCall: boolean;
  /** The record with its marks. */
  bytes: Buffer;
}

/** Cuts a stream of single-fragment records, in whatever pieces it comes. */
export function createRecordSplitter(): (chunk: Buffer) => ReadRecord[] {
  let pending = Buffer.alloc(0);
  return (chunk) => {
    pending = Buffer.concat([pending, chunk]);
    const records: ReadRecord[] = [];
    while (pending.length >= 4) {
      const recordBytes = 4 + (pending.readUInt32BE(0) & 0x7fff_ffff);
      if (pending.length < recordBytes) break;
      const bytes = pending.subarray(0, recordBytes);
      records.push({ xid: bytes.readUInt32BE(4), isCall: bytes.readUInt32BE(8) === 0, bytes });
      pending = pending.subarray(recordBytes);
    }
    return records;
  };
}
