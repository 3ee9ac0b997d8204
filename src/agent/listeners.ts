import { type AddressInfo, createServer, type ListenOptions, type Server, type Socket } from 'node:net';
import { AgentError } from '../core/errors.ts';

/** A listening socket on 127.0.0.1 that stays open for the whole life of its tunnel. */
export interface Listener {
  readonly port: number;
  readonly server: Server;
  close(): Promise<void>;
}

interface PortRange {
  lower: number;
  upperExclusive: number;
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
  range: PortRange,
  ports: Iterable<number>,
  onSocket: (socket: Socket) => void,
): Promise<Listener> {
  let obstacle: PortObstacle | null = null;
  let tried = 0;
  for (const port of ports) {
    tried += 1;
    const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, onSocket);
    obstacle = await tryListen(server, { host: '127.0.0.1', port, backlog });
    if (obstacle === null) return createListener(server);
  }
  const { lower, upperExclusive } = range;
  if (upperExclusive - lower === 1) {
    const advice =
      obstacle === 'EACCES'
        ? {
            hint: 'Choose a tlsport from 1024 on, or give the service CapabilityBoundingSet=CAP_NET_BIND_SERVICE: systemctl edit efs-agent.',
          }
        : {};
    throw new AgentError(
      'port.taken',
      `Specified port [${lower}] is unavailable: ${explainTaken(lower, obstacle)}`,
      { port: lower, ...advice },
    );
  }
  throw new AgentError(
    'port.exhausted',
    `Failed to locate an available port in the range [${lower}, ${upperExclusive}), upper bound exclusive`,
    { ports: tried },
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

/**
 * Ports of the configured range that are not reserved, in random order, each chosen when it is asked for: most often the first
 * one is free. `random` gives numbers in [0, 1). Source: specification 6.2.
 */
export function* planPorts(
  { lower, upperExclusive }: PortRange,
  isReserved: (port: number) => boolean,
  random: () => number,
): Generator<number> {
  /** What a place holds instead of its own port. */
  const moved = new Map<number, number>();
  for (let last = upperExclusive - 1; last >= lower; last -= 1) {
    const chosen = lower + Math.floor(random() * (last - lower + 1));
    const port = moved.get(chosen) ?? chosen;
    if (!isReserved(port)) yield port;
    moved.set(chosen, moved.get(last) ?? last);
  }
}

type PortObstacle = 'EADDRINUSE' | 'EACCES';

/** `obstacle` is null when the port was not even tried. */
function explainTaken(port: number, obstacle: PortObstacle | null): string {
  if (obstacle === null) return 'a mount of another agent uses it';
  return obstacle === 'EACCES'
    ? 'this agent may not open ports below 1024'
    : `something else listens on 127.0.0.1:${port}`;
}

/** Null when it listens, else the code of what stands in the way of this port. */
function tryListen(server: Server, where: ListenOptions | Server): Promise<PortObstacle | null> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE' || error.code === 'EACCES') resolve(error.code);
      else reject(error);
    });
    server.listen(where, () => {
      server.removeAllListeners('error');
      resolve(null);
    });
  });
}
