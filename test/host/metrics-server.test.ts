import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { request } from 'node:http';
import { type AddressInfo, connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Clock } from '../../src/core/ports.ts';
import {
  type MetricsPlaces,
  type MetricsServer,
  metricsSocketPath,
  serveMetrics,
} from '../../src/host/metrics-server.ts';

let folder: string;
let path: string;
let servers: MetricsServer[];
let failures: string[];
/** What was scheduled and not cancelled. */
let due: Set<() => void>;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'efs-metrics-'));
  path = metricsSocketPath(folder);
  servers = [];
  failures = [];
  due = new Set();
});
afterEach(async () => {
  await Promise.all(servers.map((server) => server.close()));
  rmSync(folder, { recursive: true });
});

const clock: Clock = {
  nowMs: () => 0,
  monoMs: () => 0,
  schedule(_delayMs, run) {
    due.add(run);
    return { cancel: () => due.delete(run) };
  },
};

function runDue(): void {
  const runs = [...due];
  due.clear();
  for (const run of runs) run();
}

function serve(places: Partial<MetricsPlaces>, text = 'a 1\n'): void {
  servers.push(
    serveMetrics(
      { socket: null, tcp: null, ...places },
      clock,
      (accept) => ({ contentType: accept ?? 'text/plain', text }),
      (place) => failures.push(place),
    ),
  );
}

async function ask(
  where: { socketPath: string } | { port: number },
  method = 'GET',
  url = '/metrics',
): Promise<{ status: number | undefined; type: string | undefined; text: string }> {
  const asked = request({ ...where, method, path: url, headers: { accept: 'text/x' } }).end();
  const [response] = await once(asked, 'response');
  let text = '';
  for await (const chunk of response) text += chunk;
  return { status: response.statusCode, type: response.headers['content-type'], text };
}

test('GET /metrics is answered on the socket, which is for root alone', async () => {
  serve({ socket: { path, gid: null } });
  await expect.poll(() => existsSync(path)).toBe(true);

  expect(await ask({ socketPath: path })).toEqual({ status: 200, type: 'text/x', text: 'a 1\n' });
  expect(await ask({ socketPath: path }, 'HEAD')).toEqual({ status: 200, type: 'text/x', text: '' });
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(readdirSync(folder)).toEqual(['metrics.sock']);
});

test('the group that is named may use the socket', async () => {
  const gid = process.getgid!();
  serve({ socket: { path, gid } });
  await expect.poll(() => existsSync(path)).toBe(true);

  expect(statSync(path)).toMatchObject({ gid });
  expect(statSync(path).mode & 0o777).toBe(0o660);
});

test.each([
  ['POST', '/metrics', 405],
  ['DELETE', '/metrics?x', 405],
  ['GET', '/', 404],
  ['GET', '/metrics/../secret', 404],
])('%s %s is refused with %i', async (method, url, status) => {
  serve({ socket: { path, gid: null } });
  await expect.poll(() => existsSync(path)).toBe(true);

  expect(await ask({ socketPath: path }, method, url)).toMatchObject({ status, type: 'text/plain' });
});

test('the next agent takes the place of the socket while the one before still serves', async () => {
  serve({ socket: { path, gid: null } }, 'old 1\n');
  await expect.poll(() => existsSync(path)).toBe(true);
  const { ino } = statSync(path);

  serve({ socket: { path, gid: null } }, 'new 1\n');

  await expect.poll(() => statSync(path).ino).not.toBe(ino);
  expect((await ask({ socketPath: path })).text).toBe('new 1\n');
});

test('a TCP port that is taken is had as soon as it is free, and told of when it stays taken', async () => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  const { port } = other.address() as AddressInfo;

  serve({ tcp: { host: '127.0.0.1', port } });
  await expect.poll(() => due.size).toBe(1);
  expect(failures).toEqual([]);
  runDue();
  await expect.poll(() => failures).toEqual([`127.0.0.1 port ${port}`]);
  other.close();
  await once(other, 'close');
  runDue();

  await expect.poll(() => ask({ port }).catch(() => null)).toMatchObject({ status: 200 });
});

test('a scraper that never asks is hung up on, and no more than eight are let in', async () => {
  serve({ socket: { path, gid: null } });
  await expect.poll(() => existsSync(path)).toBe(true);
  const slow = Array.from({ length: 8 }, () => connect(path));
  for (const socket of slow) socket.on('error', () => {}).resume();
  await expect.poll(() => due.size).toBe(8);

  await expect(ask({ socketPath: path })).rejects.toThrow(/hang up|ECONNRESET|EPIPE/);
  const ended = Promise.all(slow.map((socket) => once(socket, 'close')));
  runDue();
  await ended;

  await expect.poll(() => ask({ socketPath: path }).catch(() => null)).toMatchObject({ status: 200 });
});

test('what is no HTTP is answered with 400 or nothing, and the next scrape works', async () => {
  serve({ socket: { path, gid: null } });
  await expect.poll(() => existsSync(path)).toBe(true);
  for (const junk of ['\x16\x03\x01\x00', `GET /metrics HTTP/1.1\r\nx: ${'y'.repeat(100_000)}\r\n\r\n`]) {
    const socket = connect(path);
    socket.on('error', () => {}).resume();
    socket.write(junk);
    // Not once(), which takes a reset, as fit an answer as any, for a failure.
    await new Promise((resolve) => socket.on('close', resolve));
  }

  expect(await ask({ socketPath: path })).toMatchObject({ status: 200 });
});
