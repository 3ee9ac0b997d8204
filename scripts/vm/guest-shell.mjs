// The shell server inside the guest: runs commands that arrive on the virtio-serial port, as root.
import { spawn } from 'node:child_process';
import { openSync, read, write } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { createFrameParser, encodeFrame, encodeFrames, kinds } from './frames.mjs';

const readPort = promisify(read);
const writePort = promisify(write);
const port = openSync(process.argv[2], 'r+');
const commands = new Map();
// Without systemd's own variables, which would tell a command that it is a service.
const cleanEnvironment = { PATH: process.env['PATH'], HOME: '/root', LANG: 'C.UTF-8' };
let lastWrite = Promise.resolve();

/** Queues bytes for the host; resolves when they are written, so that a command's output waits for the port. */
function send(bytes) {
  lastWrite = lastWrite.then(async () => {
    for (let offset = 0; offset < bytes.length; ) {
      const { bytesWritten } = await writePort(port, bytes, offset);
      offset += bytesWritten;
    }
  });
  return lastWrite;
}

function start(channel, { argv, env, cwd }) {
  // Its own process group, so that a command that ran out of time goes with its children.
  const child = spawn(argv[0], argv.slice(1), {
    detached: true,
    cwd: cwd ?? '/root',
    env: { ...cleanEnvironment, ...env },
  });
  commands.set(channel, child);
  let quietSinceMs = Date.now();
  let open = 2;
  const forward = async (stream, kind) => {
    for await (const bytes of stream) {
      for (const frame of encodeFrames(kind, channel, bytes)) await send(frame);
      quietSinceMs = Date.now();
    }
    open -= 1;
  };
  void forward(child.stdout, kinds.stdout);
  void forward(child.stderr, kinds.stderr);
  const end = async (result) => {
    commands.delete(channel);
    await send(encodeFrame(kinds.exit, channel, Buffer.from(JSON.stringify(result))));
  };
  child.stdin.on('error', () => {}); // the command may end before it has read everything
  child.once('error', (error) => end({ code: 127, signal: null, error: error.message }));
  // 'exit', not 'close': a daemon that the command leaves behind may hold the output open for ever.
  child.once('exit', async (code, signal) => {
    quietSinceMs = Math.max(quietSinceMs, Date.now());
    while (open > 0 && Date.now() - quietSinceMs < 500) await delay(20);
    await end({ code, signal });
  });
}

const parse = createFrameParser((kind, channel, payload) => {
  const child = commands.get(channel);
  if (kind === kinds.ping) void send(encodeFrame(kinds.pong, channel));
  else if (kind === kinds.start) start(channel, JSON.parse(payload.toString()));
  else if (kind === kinds.stdin) child?.stdin.write(Buffer.from(payload));
  else if (kind === kinds.stdinEnd) child?.stdin.end();
  else if (kind === kinds.kill && child?.pid !== undefined) {
    try {
      process.kill(-child.pid, 'SIGKILL');
    } catch {
      // it has just ended by itself
    }
  }
});

const buffer = Buffer.alloc(256 * 1024);
for (;;) {
  const { bytesRead } = await readPort(port, buffer, 0, buffer.length, null);
  // The port reads as ended while no runner is connected.
  if (bytesRead === 0) await delay(50);
  else parse(Buffer.from(buffer.subarray(0, bytesRead)));
}
