// Connects to each listener of a living mount all the while, and counts who is refused, and for how long.
import { connect } from 'node:net';

const everyMs = 200;
const afterRefusalMs = 10;

/** `ports` are the listeners. */
export function startProbe(ports) {
  let ending = false;
  let asked = 0;
  let refused = 0;
  /** When each port was refused first, while it is. */
  const since = new Map();
  let longestMs = 0;

  const loops = ports.map(async (port) => {
    while (!ending) {
      asked++;
      const outcome = await tryConnect(port);
      if (outcome === 'connected') since.delete(port);
      else {
        refused++;
        if (!since.has(port)) since.set(port, performance.now());
        longestMs = Math.max(longestMs, performance.now() - since.get(port));
      }
      await new Promise((wake) => setTimeout(wake, outcome === 'connected' ? everyMs : afterRefusalMs));
    }
  });
  return {
    /** What was counted since the last call. */
    take() {
      const taken = { asked, refused, longestRefusedMs: Math.round(longestMs) };
      asked = 0;
      refused = 0;
      longestMs = 0;
      return taken;
    },
    async stop() {
      ending = true;
      await Promise.all(loops);
    },
  };
}

function tryConnect(port) {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' });
    socket.once('connect', () => {
      resolve('connected');
      socket.resetAndDestroy();
    });
    // The reset of a connection that was made is no refusal.
    socket.on('error', ({ code }) => resolve(code === 'ECONNREFUSED' ? 'refused' : 'connected'));
  });
}
