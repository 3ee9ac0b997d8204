import type { Socket } from 'node:net';

/**
 * What a mount target answers to the first question about a directory. A policy is enforced below NFS: its refusal is
 * an RPC reply that is denied, while NFS itself answers with a status of its own.
 */
export type ProbeAnswer =
  /** NFS spoke: 0 is success, with what the caller may do in the directory. */
  | { kind: 'nfs'; status: number; mayWrite: boolean }
  /** The RPC layer refused the credentials: that is what a policy looks like. */
  | { kind: 'denied' }
  /** It ended the connection without an answer. */
  | { kind: 'closed' }
  | { kind: 'silent' }
  /** What came is no answer to an NFS call. */
  | { kind: 'not-nfs' };

export const nfsStatus = { ok: 0, notPermitted: 1, notFound: 2, accessDenied: 13, notDirectory: 20 } as const;

/** A connection on which bytes can be received before anything is sent. */
export interface ProbeConnection {
  socket: Socket;
  onBytes(receive: (bytes: Buffer) => void): void;
}

/**
 * Looks at a directory through one NFS 4.0 COMPOUND, which needs no session and leaves nothing behind on the server:
 * PUTROOTFH, a LOOKUP for each part of the path, ACCESS. As root, as a mount would.
 *
 * Units: milliseconds. Errors: none. Source: RFC 7530 sections 16.1, 16.13, 16.20 and 16.2; RFC 5531 section 9.
 */
export function probeDirectory(
  { socket, onBytes }: ProbeConnection,
  path: string,
  timeoutMs: number,
): Promise<ProbeAnswer> {
  const parts = path.split('/').filter(Boolean);
  return new Promise((resolve) => {
    let received = Buffer.alloc(0);
    const settle = (answer: ProbeAnswer): void => {
      clearTimeout(deadline);
      socket.destroy();
      resolve(answer);
    };
    const deadline = setTimeout(() => settle({ kind: 'silent' }), timeoutMs);
    socket.on('error', () => settle({ kind: 'closed' }));
    socket.on('end', () => settle({ kind: 'closed' }));
    socket.on('close', () => settle({ kind: 'closed' }));
    onBytes((bytes) => {
      received = Buffer.concat([received, bytes]);
      const reply = takeRecord(received);
      if (reply === 'broken' || received.length > maxReplyBytes) settle({ kind: 'not-nfs' });
      else if (reply !== null) settle(readReply(reply));
    });
    socket.write(formatCall(parts));
  });
}

const callId = 0x65_66_73_01;
const nfs = { program: 100_003, version: 4, compound: 1 } as const;
const operation = { access: 3, lookup: 15, putRootHandle: 24 } as const;
const authSys = 1;
/** READ, LOOKUP, MODIFY, EXTEND. */
const wanted = { all: 0x0f, modify: 0x04 } as const;
const lastFragment = 0x8000_0000;
const maxReplyBytes = 65_536;

function formatCall(parts: readonly string[]): Buffer {
  const credential = Buffer.concat([words(0), opaque('efs-agent'), words(0, 0, 0)]);
  const body = Buffer.concat([
    words(callId, 0, 2, nfs.program, nfs.version, nfs.compound),
    words(authSys, credential.length),
    credential,
    words(0, 0),
    // An empty tag, minor version 0, and the operations.
    words(0, 0, parts.length + 2),
    words(operation.putRootHandle),
    ...parts.flatMap((part) => [words(operation.lookup), opaque(part)]),
    words(operation.access, wanted.all),
  ]);
  return Buffer.concat([words((lastFragment | body.length) >>> 0), body]);
}

/** The payload of the first record; null while it is not whole. */
function takeRecord(received: Buffer): Buffer | 'broken' | null {
  const fragments: Buffer[] = [];
  for (let at = 0; at + 4 <= received.length; ) {
    const mark = received.readUInt32BE(at);
    const length = mark & ~lastFragment;
    if (length > maxReplyBytes) return 'broken';
    if (at + 4 + length > received.length) return null;
    fragments.push(received.subarray(at + 4, at + 4 + length));
    if (mark >= lastFragment) return Buffer.concat(fragments);
    at += 4 + length;
  }
  return null;
}

function readReply(reply: Buffer): ProbeAnswer {
  const at = (index: number) => (index * 4 + 4 <= reply.length ? reply.readUInt32BE(index * 4) : null);
  const isReply = at(0) === callId && at(1) === 1;
  if (!isReply) return { kind: 'not-nfs' };
  if (at(2) === 1) return { kind: 'denied' };
  // Accepted: the verifier is a flavour and an opaque, then comes whether the call succeeded.
  const verifierWords = Math.ceil((at(4) ?? 0) / 4);
  const result = 5 + verifierWords;
  if (at(2) !== 0 || at(result) !== 0) return { kind: 'not-nfs' };
  const status = at(result + 1);
  if (status === null) return { kind: 'not-nfs' };
  // The last operation is ACCESS: what is supported, what is allowed.
  const allowed = reply.length >= 4 ? reply.readUInt32BE(reply.length - 4) : 0;
  return {
    kind: 'nfs',
    status,
    mayWrite: status === nfsStatus.ok && (allowed & wanted.modify) !== 0,
  };
}

function words(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => {
    bytes.writeUInt32BE(value, 4 * index);
  });
  return bytes;
}

function opaque(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([words(bytes.length), bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
}
