/** NFS calls of a client that mounts nothing are short; more than this is not a mount attempt. */
const maxRecordBytes = 65_536;

const nfs = { program: 100_003, version: 4, highestMinorVersion: 1 } as const;
const procedures = { null: 0, compound: 1 } as const;
const acceptStatus = {
  success: 0,
  programUnavailable: 1,
  programMismatch: 2,
  procedureUnavailable: 3,
} as const;
const authTooWeak = 5;
const minorVersionMismatch = 10_021;

/** What to do after some bytes of a client that is refused: send an answer, then perhaps end, or give up on it. */
export type RefusalStep = { kind: 'answer'; bytes: Buffer; denied: boolean } | { kind: 'not-rpc' };

/**
 * Answers a client that may not mount, as the service does: NULL calls succeed, every COMPOUND is denied
 * with AUTH_TOOWEAK.
 *
 * The first denial is the last answer: on a connection that stays open the Linux client repeats its EXCHANGE_ID
 * (measured, Linux 6.1), and with the service it was seen to come back on a new one.
 *
 * Returns a function that takes the bytes as they arrive and gives the answers to the calls completed by them.
 * A minor version that no mount target speaks is named before access is, so that a client falls back to 4.1.
 * Source: RFC 5531 sections 9 and 11, RFC 8881 section 16.2.
 */
export function createRefusal(): (chunk: Uint8Array) => RefusalStep {
  let pending = Buffer.alloc(0);
  let denied = false;
  return (chunk) => {
    pending = Buffer.concat([pending, chunk]);
    const answers: Buffer[] = [];
    while (!denied) {
      if (pending.length < 4) break;
      const mark = pending.readUInt32BE(0);
      const length = mark & 0x7fff_ffff;
      const isWhole = mark >= 0x8000_0000;
      if (!isWhole || length > maxRecordBytes) return { kind: 'not-rpc' };
      if (pending.length < 4 + length) break;
      const answer = answerCall(pending.subarray(4, 4 + length));
      if (answer === null) return { kind: 'not-rpc' };
      answers.push(answer.bytes);
      denied = answer.denied;
      pending = pending.subarray(4 + length);
    }
    return { kind: 'answer', bytes: Buffer.concat(answers), denied };
  };
}

/** The answer with its record mark; null for bytes that are no RPC call. */
function answerCall(call: Buffer): { bytes: Buffer; denied: boolean } | null {
  const isCall = call.length >= 40 && call.readUInt32BE(4) === 0 && call.readUInt32BE(8) === 2;
  if (!isCall) return null;
  const xid = call.readUInt32BE(0);
  const [program, version, procedure] = [call.readUInt32BE(12), call.readUInt32BE(16), call.readUInt32BE(20)];
  if (program !== nfs.program) return accepted(xid, acceptStatus.programUnavailable);
  if (version !== nfs.version) return accepted(xid, acceptStatus.programMismatch, nfs.version, nfs.version);
  if (procedure === procedures.null) return accepted(xid, acceptStatus.success);
  if (procedure !== procedures.compound) return accepted(xid, acceptStatus.procedureUnavailable);
  const minorVersion = minorVersionOf(call);
  if (minorVersion !== null && minorVersion > nfs.highestMinorVersion) {
    // COMPOUND4res: status, an empty tag, no results.
    return accepted(xid, acceptStatus.success, minorVersionMismatch, 0, 0);
  }
  return { bytes: reply(xid, 1, 1, authTooWeak), denied: true };
}

function accepted(xid: number, status: number, ...results: number[]): { bytes: Buffer; denied: boolean } {
  return { bytes: reply(xid, 0, 0, 0, status, ...results), denied: false };
}

function reply(xid: number, ...words: number[]): Buffer {
  const isReply = 1;
  const body = [xid, isReply, ...words];
  const bytes = Buffer.alloc(4 + 4 * body.length);
  bytes.writeUInt32BE(0x8000_0000 + 4 * body.length, 0);
  body.forEach((word, index) => {
    bytes.writeUInt32BE(word, 4 + 4 * index);
  });
  return bytes;
}

/** The minor version of a COMPOUND, which follows credentials, verifier and tag; null if the call is cut short. */
function minorVersionOf(call: Buffer): number | null {
  let at = 24;
  const skipOpaque = () => {
    if (at + 4 > call.length) return;
    at += 4 + 4 * Math.ceil(call.readUInt32BE(at) / 4);
  };
  at += 4;
  skipOpaque();
  at += 4;
  skipOpaque();
  skipOpaque();
  return at + 4 <= call.length ? call.readUInt32BE(at) : null;
}
