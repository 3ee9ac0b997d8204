// Frames between the runner on the host and the shell server in the guest, both ways on one virtio-serial
// port: 4 bytes payload length, 1 byte kind, 4 bytes channel, payload. A channel is one command.

export const kinds = {
  ping: 1,
  pong: 2,
  start: 3,
  stdin: 4,
  stdinEnd: 5,
  kill: 6,
  stdout: 7,
  stderr: 8,
  exit: 9,
};

const headerBytes = 9;
// Large writes would hold up the small frames of the other channels behind them.
const maxPayloadBytes = 64 * 1024;

/** Makes one frame from a kind, a channel number and at most 64 KiB of payload. */
export function encodeFrame(kind, channel, payload = Buffer.alloc(0)) {
  const header = Buffer.alloc(headerBytes);
  header.writeUInt32BE(payload.length, 0);
  header.writeUInt8(kind, 4);
  header.writeUInt32BE(channel, 5);
  return Buffer.concat([header, payload]);
}

/** Cuts bytes of any length into frames of one kind and channel. */
export function* encodeFrames(kind, channel, bytes) {
  for (let offset = 0; offset < bytes.length; offset += maxPayloadBytes) {
    yield encodeFrame(kind, channel, bytes.subarray(offset, offset + maxPayloadBytes));
  }
}

/** Gives a function that takes bytes as they arrive and calls `onFrame(kind, channel, payload)` for each whole frame. */
export function createFrameParser(onFrame) {
  let pending = Buffer.alloc(0);
  return (bytes) => {
    pending = pending.length === 0 ? bytes : Buffer.concat([pending, bytes]);
    while (pending.length >= headerBytes) {
      const end = headerBytes + pending.readUInt32BE(0);
      if (pending.length < end) return;
      onFrame(pending.readUInt8(4), pending.readUInt32BE(5), pending.subarray(headerBytes, end));
      pending = pending.subarray(end);
    }
  };
}
