import { createHash, type Hash } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type AgentStage, fileSystemId, openAgentStage, type Running } from '../support/agent-stage.ts';
import { childrenOf, scriptOf } from '../support/processes.ts';
import { call, reply } from '../support/rpc.ts';

const mebibyte = 2 ** 20;
const writers = 50;
/** Each writer has this much to say, in requests as large as the kernel's: together far more than the unit may hold. */
const requestsEach = 6;
const requestBytes = mebibyte;
const limitBytes = 192 * mebibyte;
const slowBytesPerSecond = mebibyte;
/** How long the mount target is slow before it gets better. */
const slowMs = 6_000;

let stage: AgentStage;
let undo: (() => unknown)[] = [];
beforeEach(() => {
  stage = openAgentStage([23210, 23219]);
});
afterEach(async () => {
  await stage.close();
  for (const step of undo.reverse()) await step();
  undo = [];
});

test('fifty writers into a mount target that takes 1 MB/s: agent, worker and identity process stay below 192 MiB, and all data is right', {
  timeout: 240_000,
}, async () => {
  const sink = createSink();
  await stage.startTarget(undefined, sink.serve);
  const agent = await stage.startAgent();
  const cgroup = limitMemory(agent);
  const tunnel = stage.start('dist/efs-agent.mjs', [
    'tunnel',
    fileSystemId,
    '-o',
    'tls,accesspoint=fsap-0123456789abcdef0,mounttargetip=127.0.0.1',
  ]);
  await expect.poll(() => tunnel.stdout()).toContain('\n');
  const port = Number(tunnel.stdout().trim().split(':')[1]);
  const { pid: worker } = (await stage.status()).worker;
  let highestBytes = 0;
  // The identity process, which has made the certificate for the access point, is there as well.
  const unit = [agent.child.pid!, ...childrenOf(agent.child.pid!)];
  const programs = unit.map((pid) => scriptOf(pid).split('/').at(-1));
  const sampling = setInterval(() => {
    highestBytes = Math.max(
      highestBytes,
      unit.reduce((sum, pid) => sum + residentBytes(pid), 0),
    );
  }, 100);

  const writing = Array.from({ length: writers }, (_, index) => write(port, index));
  setTimeout(() => sink.release(), slowMs);
  const sent = await Promise.all(writing);
  clearInterval(sampling);

  expect(programs.sort()).toEqual(['agent.cjs', 'identity.cjs', 'worker.cjs']);
  expect(highestBytes).toBeGreaterThan(0);
  expect(highestBytes).toBeLessThan(limitBytes);
  expect(sink.digests().sort()).toEqual(sent.sort());
  expect((await stage.status()).worker).toMatchObject({ pid: worker, restarts: 0 });
  expect(agent.stderr()).not.toContain('session.stalled');
  expect(cgroup?.kills() ?? 0).toBe(0);
});

/** One NFS client: sends its requests as fast as it may, waits for every answer, and says what it has sent. */
async function write(port: number, index: number): Promise<string> {
  const socket = connect({ port, host: '127.0.0.1' });
  await once(socket, 'connect');
  const digest = createHash('sha256');
  const count = createRecordCounter();
  let answers = 0;
  const answered = new Promise<void>((resolve, reject) => {
    socket.on('data', (chunk: Buffer) => {
      answers += count(chunk);
      if (answers === requestsEach) resolve();
    });
    socket.once('close', () => reject(new Error(`writer ${index} was cut off after ${answers} answers`)));
  });
  answered.catch(() => {});
  for (let number = 0; number < requestsEach; number += 1) {
    const request = call(number, requestBytes);
    request.fill(index, 64);
    digest.update(request);
    if (!socket.write(request)) await Promise.race([once(socket, 'drain'), answered]);
  }
  await answered;
  socket.destroy();
  return digest.digest('hex');
}

/** A mount target that reads slowly until it is released, answers each request, and remembers what came on each connection. */
function createSink() {
  const received: Hash[] = [];
  const sockets = new Set<TLSSocket>();
  let allowedBytes = 0;
  let isReleased = false;
  const refill = setInterval(() => {
    allowedBytes = slowBytesPerSecond / 10;
    for (const socket of sockets) socket.resume();
  }, 100);
  undo.push(() => clearInterval(refill));
  return {
    serve(socket: TLSSocket): void {
      const digest = createHash('sha256');
      const count = createRecordCounter();
      let answered = 0;
      received.push(digest);
      sockets.add(socket);
      socket.on('close', () => sockets.delete(socket));
      socket.on('data', (chunk: Buffer) => {
        digest.update(chunk);
        for (const end = answered + count(chunk); answered < end; answered += 1)
          socket.write(reply(answered));
        allowedBytes -= chunk.length;
        // Whoever was read from comes last the next time: no connection is silent for long.
        if (sockets.delete(socket)) sockets.add(socket);
        if (!isReleased && allowedBytes <= 0) for (const one of sockets) one.pause();
      });
    },
    release(): void {
      isReleased = true;
      for (const socket of sockets) socket.resume();
    },
    /** Of the connections on which anything came. */
    digests: () => received.map((digest) => digest.digest('hex')).filter((digest) => digest !== emptyDigest),
  };
}

/** Counts the ends of records in a stream, without keeping any of it. */
function createRecordCounter(): (chunk: Buffer) => number {
  const mark = Buffer.alloc(4);
  let markBytes = 0;
  let leftBytes = 0;
  return (chunk) => {
    let ended = 0;
    for (let at = 0; at < chunk.length; ) {
      if (leftBytes === 0) {
        mark[markBytes] = chunk[at]!;
        markBytes += 1;
        at += 1;
        if (markBytes < 4) continue;
        markBytes = 0;
        leftBytes = mark.readUInt32BE(0) & 0x7fff_ffff;
        continue;
      }
      const step = Math.min(leftBytes, chunk.length - at);
      at += step;
      leftBytes -= step;
      if (leftBytes === 0) ended += 1;
    }
    return ended;
  };
}

const emptyDigest = createHash('sha256').digest('hex');

/** Puts an agent that has no worker yet under the limit; null where this process may not make a cgroup. */
function limitMemory(agent: Running): { kills(): number } | null {
  const versions = [
    { root: '/sys/fs/cgroup/memory', limit: 'memory.limit_in_bytes', events: 'memory.oom_control' },
    { root: '/sys/fs/cgroup', limit: 'memory.max', events: 'memory.events' },
  ];
  for (const { root, limit, events } of versions) {
    const directory = join(root, `efs-agent-test-${process.pid}`);
    try {
      mkdirSync(directory);
      // Its last process may be about to end.
      undo.push(() => expect.poll(() => rmdirSync(directory), { timeout: 60_000 }).toBeUndefined());
      writeFileSync(join(directory, limit), String(limitBytes));
      writeFileSync(join(directory, 'cgroup.procs'), String(agent.child.pid));
      return {
        kills: () => Number(/oom_kill (\d+)/.exec(readFileSync(join(directory, events), 'utf8'))?.[1]),
      };
    } catch {
      // Not this version, or not ours to make.
    }
  }
  return null;
}

/** Memory of a process, its part of what it shares. */
function residentBytes(pid: number): number {
  const kibibytes = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1];
  return Number(kibibytes) * 1024;
}
