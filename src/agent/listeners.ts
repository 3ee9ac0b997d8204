import { type AddressInfo, createServer, type ListenOptions, type Server, type Socket } from 'node:net';
import { AgentError } from '../core/errors.ts';

/** A listening socket on 127.0.0.1 that stays open for the whole life of its tunnel. */
export interface Listener {
  readonly port: number;
  readonly server: Server;
  close(): Promise<void>;
}

/** Connections the kernel keeps for us while no worker is there to take them; spec of the data plane 8.3. */
const backlog = 1024;

/**
 * Opens the listener on the first of these ports of the range that is free, and keeps it: nobody reserves a port, lets it
 * go and hopes.
 *
 * `onSocket` gets each accepted socket paused, so that not a byte is read before a worker has it.
 *
 * Errors: `port.taken` when the range is a single port, else `port.exhausted`.
 */
export async function openListener(
  range: { lower: number; upperExclusive: number },
  ports: readonly number[],
  onSocket: (socket: Socket) => void,
): Promise<Listener> {
  for (const port of ports) {
    const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, onSocket);
    if (await tryListen(server, { host: '127.0.0.1', port, backlog })) return createListener(server);
  }
  const { lower, upperExclusive } = range;
  if (upperExclusive - lower === 1) {
    const why =
      ports.length === 0
        ? 'a mount of another agent uses it'
        : `something else listens on 127.0.0.1:${lower}`;
    throw new AgentError('port.taken', `Specified port [${lower}] is unavailable: ${why}`, { port: lower });
  }
  throw new AgentError(
    'port.exhausted',
    `Failed to locate an available port in the range [${lower}, ${upperExclusive}), upper bound exclusive`,
    { ports: ports.length },
  );
}

/**
 * Goes on with a listening socket that an earlier agent opened. Connections arrive from the next turn on.
 *
 * @param inherited as it came over IPC: without our options, so its handle moves to a server of ours.
 */
export async function adoptListener(
  inherited: Server,
  onSocket: (socket: Socket) => void,
): Promise<Listener> {
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, onSocket);
  await tryListen(server, inherited);
  return createListener(server);
}

function createListener(server: Server): Listener {
  const { port } = server.address() as AddressInfo;
  return { port, server, close: () => new Promise((resolve) => server.close(() => resolve())) };
}

/** Ports of the configured range in random order. `random` gives numbers in [0, 1). Source: specification 6.2. */
export function planPorts(lower: number, upperExclusive: number, random: () => number): number[] {
  const ports = Array.from({ length: upperExclusive - lower }, (_, index) => lower + index);
  for (let last = ports.length - 1; last > 0; last -= 1) {
    const other = Math.floor(random() * (last + 1));
    [ports[last], ports[other]] = [ports[other]!, ports[last]!];
  }
  return ports;
}

function tryListen(server: Server, where: ListenOptions | Server): Promise<boolean> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE' || error.code === 'EACCES') resolve(false);
      else reject(error);
    });
    server.listen(where, () => {
      server.removeAllListeners('error');
      resolve(true);
    });
  });
}
