import type { Server as HttpServer, IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Clock } from '../core/ports.ts';
import { listenForGroup, removeSocket } from './unix-socket.ts';

/** A page for the scraper that says it accepts these types. */
export type RenderPage = (accept: string | undefined) => { contentType: string; text: string };

export interface MetricsPlaces {
  /** Path of a unix socket, and the group that may use it besides root; null = none. */
  socket: { path: string; gid: number | null } | null;
  /** null = none. */
  tcp: { host: string; port: number } | null;
}

export interface MetricsServer {
  close(): Promise<void>;
}

/** Scrapes at a time; one more is hung up on. */
const mostConnections = 8;
/** A scraper that takes longer is hung up on, in milliseconds. */
const scrapeMs = 10_000;
/** A place that cannot be had is tried again after so long. */
const retryMs = 5_000;

/** Path of the metrics socket in a runtime directory. */
export function metricsSocketPath(directory: string): string {
  return join(directory, 'metrics.sock');
}

/**
 * Serves `GET /metrics` at its places, one answer for each connection. A place that cannot be had is told to
 * `onFailure` and tried again: no mount depends on it.
 *
 * Errors: none.
 */
export function serveMetrics(
  places: MetricsPlaces,
  clock: Clock,
  render: RenderPage,
  onFailure: (place: string, error: Error) => void,
): MetricsServer {
  const accept = createAcceptor(render, clock);
  const servers = new Set<Server>();
  let isClosed = false;

  /** The first failure may be the agent before this one, which is about to leave. */
  function open(place: string, listen: (server: Server) => Promise<void>, attempt = 1): void {
    const server = createServer({ allowHalfOpen: true, noDelay: true }, accept);
    server.maxConnections = mostConnections;
    listen(server).then(
      () => {
        if (isClosed) server.close();
        else servers.add(server);
      },
      (error: Error) => {
        server.close();
        if (isClosed) return;
        if (attempt > 1) onFailure(place, error);
        clock.schedule(retryMs, () => {
          if (!isClosed) open(place, listen, attempt + 1);
        });
      },
    );
  }

  const { socket, tcp } = places;
  if (socket !== null) open(socket.path, (server) => listenOnSocket(server, socket));
  if (tcp !== null) open(`${tcp.host} port ${tcp.port}`, (server) => listenOn(server, tcp));
  return {
    async close() {
      isClosed = true;
      for (const server of servers) server.close();
      if (socket !== null) await removeSocket(socket.path);
    },
  };
}

async function listenOnSocket(
  server: Server,
  { path, gid }: { path: string; gid: number | null },
): Promise<void> {
  await listenForGroup(server, path, gid);
  keepServing(server);
}

function listenOn(server: Server, where: { host: string; port: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(where, () => {
      server.off('error', reject);
      keepServing(server);
      resolve();
    });
  });
}

function keepServing(server: Server): void {
  // A connection that could not be accepted is the scraper's loss.
  server.on('error', () => {});
  server.unref();
}

/** Node's HTTP server is loaded for the first scrape: an agent that nobody asks does without. */
function createAcceptor(render: RenderPage, clock: Clock): (socket: Socket) => void {
  let http: Promise<HttpServer> | null = null;
  return (socket) => {
    const deadline = clock.schedule(scrapeMs, () => socket.destroy());
    socket.on('error', () => socket.destroy());
    socket.on('close', () => deadline.cancel());
    http ??= import('node:http').then(({ createServer }) =>
      createServer((request, response) => answer(request, response, render)),
    );
    void http.then((server) => server.emit('connection', socket));
  };
}

function answer(request: IncomingMessage, response: ServerResponse, render: RenderPage): void {
  // Whatever a request carries beside its head is not wanted.
  request.resume();
  const path = request.url?.split('?')[0];
  const isRead = request.method === 'GET' || request.method === 'HEAD';
  response.setHeader('Connection', 'close');
  if (path !== '/metrics' || !isRead) {
    const allow = path === '/metrics' ? { Allow: 'GET, HEAD' } : {};
    response.writeHead(path === '/metrics' ? 405 : 404, { 'Content-Type': 'text/plain', ...allow });
    response.end('Only GET /metrics is answered here.\n');
    return;
  }
  const { contentType, text } = render(request.headers.accept);
  response.writeHead(200, { 'Content-Type': contentType, 'Content-Length': Buffer.byteLength(text) });
  response.end(request.method === 'HEAD' ? undefined : text);
}
