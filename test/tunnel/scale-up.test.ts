import type { Socket } from 'node:net';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type BindAnswer, type BindingTarget, openBindingTarget } from '../support/binding-target.ts';
import { type FaultWire, openFaultWire } from '../support/fault-wire.ts';
import { call, createRecordSplitter, record, reply } from '../support/rpc.ts';
import { ask } from './rpc-peer.ts';
import { connectTo, endOf, read, type TunnelStage, useTunnelStage, type Worker } from './stage.ts';

const stage = useTunnelStage();
const ready = (partition: number): BindAnswer => ({ type: 'ready', partition });
const always = 0;
const never = -1;

interface Scene {
  worker: Worker;
  target: BindingTarget;
  wire: FaultWire;
  port: number;
}

async function start(
  thresholdBytesPerSec: number,
  options: Parameters<TunnelStage['startTunnel']>[0] & { serverMost?: number } = {},
): Promise<Scene> {
  const { serverMost = 5, ...workerOptions } = options;
  const target = await openBindingTarget(stage.certificate);
  target.settings = { maxConnections: serverMost, thresholdBytesPerSec };
  const wire = await openFaultWire(target.port);
  const worker = await stage.startTunnel({ maxConnections: 5, ...workerOptions, dialTimeoutMs: 5_000 });
  stage.atEnd(target.close, wire.close);
  const port = await worker.listen('t', [{ address: '127.0.0.1', port: wire.port }]);
  return { worker, target, wire, port };
}

/** A client whose session has been widened. */
async function startWide(options: Parameters<typeof start>[1] = {}): Promise<Scene & { client: Socket }> {
  const scene = await start(always, options);
  const client = await connectTo(scene.port);
  await ask(client, 1);
  await scene.worker.logs('session.widened');
  return { ...scene, client };
}

async function connectionsOf(worker: Worker): Promise<number | undefined> {
  return (await worker.totals()).tunnels[0]?.open[0]?.connections;
}

test('records of ten bytes and of a kilobyte come back over a bound connection', async () => {
  const { target, port, worker } = await start(never);
  target.serve = ({ bytes }) => bytes;
  const client = await connectTo(port);

  for (const payload of [Buffer.from('0000000a00000000ffff', 'hex'), Buffer.alloc(1_024, 1).fill(0, 4, 8)]) {
    client.write(record(payload));
    expect(await read(client, 4 + payload.length)).toEqual(record(payload));
  }

  expect(target.connections).toHaveLength(1);
  expect(target.connections[0]!.binds).toMatchObject([{ form: 'current', incarnation: 1n }]);
  expect((await worker.logs('upstream.bind')).fields).toMatchObject({ answer: 'ready', maxConnections: 5 });
});

test('with a limit of one connection the mount target never hears a bind call', async () => {
  const { target, port } = await start(always, { maxConnections: 1 });
  const client = await connectTo(port);
  await ask(client, 1);

  expect(target.connections.map(({ binds }) => binds)).toEqual([[]]);
});

test('an ordinary NFS server is asked in both forms, and serves the same connection unbound', async () => {
  const { worker, target, port } = await start(always);
  target.answer = () => ({ type: 'unsupported' });
  const client = await connectTo(port);
  await ask(client, 1);

  expect(target.connections.map(({ binds }) => binds.map(({ form }) => form))).toEqual([
    ['current', 'former'],
  ]);
  const second = await connectTo(port);
  await ask(second, 2);
  expect(target.connections[1]!.binds).toEqual([]);
  expect((await worker.logs('upstream.bind')).fields).toMatchObject({ answer: 'unsupported' });
});

test('a mount target that knows the former form only is bound with that', async () => {
  const { worker, target, port } = await start(always);
  target.answer = (_, { form }) => (form === 'current' ? { type: 'unsupported' } : ready(1));
  const client = await connectTo(port);
  await ask(client, 1);
  await worker.logs('session.widened');

  expect(target.connections.slice(1).map(({ binds }) => binds.map(({ form }) => form))).toEqual([
    ['former'],
    ['former'],
    ['former'],
    ['former'],
  ]);
});

test.each<BindAnswer['type']>([
  'close',
  'denied',
  'two-fragments',
  'other-xid',
  'cut-short',
  'too-long',
  'call',
  'trailing',
])(
  'a bind call that is answered with %s costs that connection, and NFS is served on an unbound one',
  async (type) => {
    const { target, port } = await start(always);
    target.answer = () => ({ type }) as BindAnswer;
    const client = await connectTo(port);

    await ask(client, 1);

    expect(target.connections).toHaveLength(2);
    expect(target.connections[0]!.records).toEqual([]);
    expect(target.connections[1]!.binds).toEqual([]);
    const second = await connectTo(port);
    await ask(second, 2);
    expect(target.connections[2]!.binds).toEqual([]);
  },
);

test('a bind call that is not answered holds the first connection up for two seconds, once', async () => {
  const { target, port } = await start(always);
  target.answer = () => ({ type: 'silence' });
  const client = await connectTo(port);
  const began = Date.now();

  await ask(client, 1);

  expect(Date.now() - began).toBeLessThan(6_000);
  const second = await connectTo(port);
  const again = Date.now();
  await ask(second, 2);
  expect(Date.now() - again).toBeLessThan(1_500);
});

test('a mount target whose handshake took a second has four of them for the bind call', async () => {
  const { worker, target, wire, port } = await start(never);
  target.answer = () => {
    wire.silence();
    setTimeout(() => wire.resume(), 2_600);
    return ready(1);
  };
  wire.silence();
  const client = await connectTo(port);
  await expect.poll(() => wire.accepted()).toBe(1);
  setTimeout(() => wire.resume(), 1_500);

  await ask(client, 1);

  expect(target.connections).toHaveLength(1);
  expect((await worker.logs('upstream.bind')).fields).toMatchObject({ answer: 'ready' });
});

test.each<BindAnswer>([
  { type: 'retry' },
  { type: 'retry-later' },
  { type: 'preferred', partition: 3 },
  { type: 'error' },
  { type: 'unknown' },
])('after $type NFS is served on the same connection', async (answer) => {
  const { target, port } = await start(never);
  target.answer = () => answer;
  const client = await connectTo(port);

  await ask(client, 1);
  await ask(client, 2);

  expect(target.connections).toHaveLength(1);
});

test('after the mount target has closed, the next connection carries the same identity and a higher incarnation', async () => {
  const { target, port } = await start(never);
  const client = await connectTo(port);
  await ask(client, 1);
  target.connections[0]!.socket.destroy();
  await endOf(client);
  client.destroy();

  const next = await connectTo(port);
  await ask(next, 2);

  const [first, second] = target.connections.map(({ binds }) => binds[0]!);
  expect(second!.uuid).toBe(first!.uuid);
  expect([first!.incarnation, second!.incarnation]).toEqual([1n, 2n]);
});

test('two NFS connections of one mount at once have identities of their own', async () => {
  const { target, port } = await start(never);
  const first = await connectTo(port);
  await ask(first, 1);
  const second = await connectTo(port);
  await ask(second, 2);

  const uuids = target.connections.map(({ binds }) => binds[0]!.uuid);
  expect(new Set(uuids).size).toBe(2);
});

test('scale-up to the same partition leaves the NFS client connected, and there is no second attempt', async () => {
  const { worker, target, client } = await startWide();

  await ask(client, 2);
  expect(target.open()).toHaveLength(5);
  const identities = target.connections.map(({ binds }) => `${binds[0]!.uuid} ${binds[0]!.incarnation}`);
  expect(new Set(identities).size).toBe(1);
  await ticks(worker, 2_500);
  expect(target.connections).toHaveLength(5);
  expect(await connectionsOf(worker)).toBe(5);
});

test('the server may allow two connections only, or one', async () => {
  const two = await startWide({ serverMost: 2 });
  expect(two.target.open()).toHaveLength(2);

  const one = await start(always, { serverMost: 1 });
  const client = await connectTo(one.port);
  await ask(client, 1);
  await ticks(one.worker, 2_500);
  expect(one.target.connections).toHaveLength(1);
});

test('the administrator may allow fewer connections than the server', async () => {
  const { target } = await startWide({ maxConnections: 3 });

  expect(target.open()).toHaveLength(3);
});

test('steady traffic scales up at the threshold, and below it does not', async () => {
  const quick = await start(299);
  const slow = await start(2_000);
  const clients = [await connectTo(quick.port), await connectTo(slow.port)];
  // 44 + 28 bytes, six times a second and more.
  const load = setInterval(() => {
    for (const client of clients) client.write(call(9));
  }, 100);
  stage.atEnd(async () => clearInterval(load));

  await quick.worker.logs('session.widened');
  await ticks(slow.worker, 1_500);

  expect(slow.target.connections).toHaveLength(1);
});

test('after scale-up the calls of a client spread over all connections, and every answer arrives', async () => {
  const { target, client } = await startWide();
  target.serve = ({ xid }) => (xid === 100 ? null : reply(xid, 100, xid & 255));
  const answers = new Set<number>();
  const split = createRecordSplitter();
  client.on('data', (chunk: Buffer) => {
    for (const { xid, bytes } of split(chunk)) {
      expect(bytes).toEqual(reply(xid, 100, xid & 255));
      answers.add(xid);
    }
  });

  const xids = Array.from({ length: 20 }, (_, index) => 10 + index);
  client.write(Buffer.concat(xids.map((xid) => call(xid))));

  await expect.poll(() => answers.size).toBe(20);
  expect(target.connections.map(({ records }) => records.filter(({ xid }) => xid >= 10).length)).toEqual([
    4, 4, 4, 4, 4,
  ]);
});

test('a connection that is behind gets fewer calls than the others', async () => {
  const { target, client } = await startWide();
  const slow = target.connections[2]!;
  const unanswered = new Set<number>();
  target.serve = ({ xid }) => {
    if (!slow.records.some((one) => one.xid === xid)) return reply(xid);
    unanswered.add(xid);
    return null;
  };

  client.resume();
  for (let xid = 10; xid < 110; xid++) {
    const before = target.connections.reduce((sum, { records }) => sum + records.length, 0);
    client.write(call(xid));
    await expect
      .poll(() => target.connections.reduce((sum, { records }) => sum + records.length, 0), { interval: 1 })
      .toBe(before + 1);
  }

  // Its calls are never answered, so that after the first one the others are always lighter.
  expect(unanswered.size).toBe(1);
});

test('records of all sizes pass whole and unchanged over several connections, however they are cut', async () => {
  const { target, wire, client } = await startWide();
  target.serve = ({ xid, bytes }) => reply(xid, 12 + ((bytes.length * 7) % 90_000), bytes.at(-1));
  const replies = new Map<number, Buffer>();
  const split = createRecordSplitter();
  client.on('data', (chunk: Buffer) => {
    for (const { xid, bytes } of split(chunk)) replies.set(xid, bytes);
  });
  let xid = 1_000;

  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 40, max: 70_000 }), { minLength: 1, maxLength: 12 }),
      fc.constantFrom(null, 13, 1_000, 16_401),
      fc.integer({ min: 1, max: 20_000 }),
      async (sizes, splitBytes, pieceBytes) => {
        wire.split(splitBytes);
        const calls = sizes.map((size) => ({ xid: ++xid, size, fill: xid & 255 }));
        const bytes = Buffer.concat(calls.map((one) => call(one.xid, one.size, one.fill)));
        for (let at = 0; at < bytes.length; at += pieceBytes) {
          client.write(bytes.subarray(at, at + pieceBytes));
          if (at % 3 === 0) await new Promise(setImmediate);
        }

        await expect.poll(() => calls.every((one) => replies.has(one.xid))).toBe(true);
        for (const one of calls) {
          const wanted = reply(one.xid, 12 + (((4 + one.size) * 7) % 90_000), one.fill);
          expect(replies.get(one.xid)!.equals(wanted)).toBe(true);
        }
      },
    ),
    { numRuns: 15 },
  );
}, 60_000);

test('a record that is under way when the connections join arrives whole', async () => {
  const { worker, target, port } = await start(always);
  const client = await connectTo(port);
  const long = call(5, 500, 3);
  client.write(long.subarray(0, 200));
  await worker.logs('session.widened');

  client.write(Buffer.concat([long.subarray(200), call(6)]));

  await expect.poll(() => target.connections.flatMap(({ records }) => records).length).toBe(2);
  expect(target.connections[0]!.records[0]!.bytes).toEqual(long);
});

test('a callback may come on any connection, and its answer goes back on the same', async () => {
  const { target, client } = await startWide();
  const callback = call(77);
  target.connections[3]!.socket.write(callback);
  expect(await read(client, callback.length)).toEqual(callback);

  client.write(reply(77));

  await expect.poll(() => target.connections[3]!.records.map(({ xid }) => xid)).toContain(77);
});

test.each([
  ['closed', (socket: Socket) => void socket.destroy()],
  ['ended', (socket: Socket) => void socket.end()],
])(
  'when one of several connections is %s the NFS client reconnects, and starts with one',
  async (_how, breakIt) => {
    const { worker, target, client } = await startWide();
    target.settings.thresholdBytesPerSec = never;
    const ended = endOf(client);

    breakIt(target.connections[3]!.socket);

    expect(await ended).toBe('reset');
    await worker.hears('session.closed');
    await expect.poll(() => target.open().length).toBe(0);
    const next = await connectTo(await worker.listen('t', [{ address: '127.0.0.1', port: target.port }]));
    await ask(next, 2);
    expect(target.open()).toHaveLength(1);
    expect(target.connections.at(-1)!.binds).toMatchObject([{ incarnation: 2n }]);
  },
);

test('a mount target that goes silent on one of several connections costs the session', async () => {
  const { worker, target, client } = await startWide({ stallTimeoutMs: 1_000 });
  target.serve = ({ xid }) =>
    target.connections[2]!.records.some((one) => one.xid === xid) ? null : reply(xid);
  const ended = endOf(client);

  for (let xid = 10; xid < 20; xid++) client.write(call(xid));

  expect(await ended).toBe('reset');
  expect(await worker.hears('session.closed')).toMatchObject({ cause: 'stalled' });
});

test('bytes that are no records end a session that is shared out, and the worker serves the next', async () => {
  const { worker, port, client } = await startWide();
  const ended = endOf(client);

  client.write(Buffer.from('8000000400000000', 'hex'));

  expect(await ended).toBe('reset');
  await worker.logs('session.unparsed');
  await ask(await connectTo(port), 2);
});

test('connections of another partition are used by the next session, all at once, and never beside the first', async () => {
  const { worker, target, port } = await start(always);
  target.answer = (index) => ready(index === 0 ? 1 : 2);
  const client = await connectTo(port);
  await ask(client, 1);

  expect(await endOf(client)).toBe('reset');
  expect(await worker.hears('session.closed')).toMatchObject({ cause: 'moved' });
  const next = await connectTo(port);
  await ask(next, 2);

  expect(await connectionsOf(worker)).toBe(5);
  expect(target.connections).toHaveLength(6);
  expect(target.open()).toHaveLength(5);
});

test('connections of a partition that does not fill up are closed', async () => {
  const { worker, target } = await start(always, { serverMost: 3 }).then(async (scene) => {
    scene.target.answer = (index) => ready([1, 7, 1, 8, 1, 9][index] ?? 1);
    await ask(await connectTo(scene.port), 1);
    return scene;
  });

  await worker.logs('session.widened');

  await expect.poll(() => target.open().length).toBe(3);
});

test('a mount target that asks to try again a few times is asked again', async () => {
  const { worker, target, port } = await start(always);
  target.answer = (index) => (index >= 1 && index <= 4 ? { type: 'retry' } : ready(1));
  await ask(await connectTo(port), 1);

  await worker.logs('session.widened');

  expect(target.open()).toHaveLength(5);
});

test('a first connection that was told to try again is moved to bound ones when there are enough', async () => {
  const { worker, target, port } = await start(always);
  target.answer = (index) => (index === 0 ? { type: 'retry' } : ready(1));
  const client = await connectTo(port);
  await ask(client, 1);
  await endOf(client);
  const next = await connectTo(port);
  await ask(next, 2);

  expect(await connectionsOf(worker)).toBe(5);
});

test.each<BindAnswer>([{ type: 'retry-later' }, { type: 'error' }, { type: 'close' }, { type: 'silence' }])(
  'when further connections are answered with $type the session goes on with one, and nothing leaks',
  async (answer) => {
    const { worker, target, port } = await start(always);
    target.answer = (index) => (index === 0 ? ready(1) : answer);
    const client = await connectTo(port);
    await ask(client, 1);

    await worker.logs('session.not-widened');

    await ask(client, 2);
    await expect.poll(() => target.open().length).toBe(1);
    const asked = target.connections.length;
    await ticks(worker, 2_500);
    expect(target.connections).toHaveLength(asked);
  },
);

test('a client that leaves after half a record, or without a word, does not harm the next', async () => {
  const { worker, target, port } = await start(never);
  (await connectTo(port)).destroy();
  const half = await connectTo(port);
  half.write(call(1).subarray(0, 20));
  await worker.hears('session.connected');
  half.destroy();

  const client = await connectTo(port);
  await ask(client, 2);

  await expect.poll(() => target.open().length).toBe(1);
});

test('an NFS client that ends its side of a wide session still gets every answer', async () => {
  const { target, client } = await startWide();
  target.serve = ({ xid }) => reply(xid, 50_000, xid);

  client.end(Buffer.concat([10, 11, 12, 13, 14].map((xid) => call(xid))));

  const split = createRecordSplitter();
  const answers = split(await read(client, 5 * 50_004));
  expect(answers.map(({ xid }) => xid).sort()).toEqual([10, 11, 12, 13, 14]);
  expect(await endOf(client)).toBe('end');
});

test('a wide session retires when every connection is quiet', async () => {
  const { worker, target, client } = await startWide();
  let held: (() => void)[] = [];
  target.serve = ({ xid }) => {
    const connection = target.connections.find(({ records }) => records.some((one) => one.xid === xid))!;
    held.push(() => void connection.socket.write(reply(xid)));
    return null;
  };
  client.write(Buffer.concat([call(10), call(11), call(12)]));
  await expect.poll(() => held.length).toBe(3);

  worker.tell({ kind: 'retire', deadlineMs: 60_000 });
  await worker.totals();
  for (const answer of held.splice(0, 2)) answer();
  await read(client, 2 * 28);
  await worker.totals();
  expect(client.readableEnded).toBe(false);
  for (const answer of held) answer();
  held = [];

  await read(client, 28);
  expect(await endOf(client)).toBe('end');
  client.end();
  await worker.hears('retired');
});

test('a session that is never quiet retires too, without a request that is carried out and not answered', async () => {
  const { worker, target, port } = await start(never);
  const client = await connectTo(port);
  await ask(client, 1);
  let xid = 1;
  const answered = new Set<number>([1]);
  const split = createRecordSplitter();
  // Two requests are always under way.
  client.on('data', (chunk: Buffer) => {
    for (const one of split(chunk)) {
      answered.add(one.xid);
      if (!client.destroyed) client.write(call(++xid));
    }
  });
  client.on('end', () => client.end());
  client.write(Buffer.concat([call(++xid), call(++xid)]));

  worker.tell({ kind: 'retire', deadlineMs: 2_000 });

  expect(await worker.hears('session.closed')).toMatchObject({ cause: 'retired' });
  await worker.hears('retired');
  const carriedOut = target.connections.flatMap(({ records }) => records.map((one) => one.xid));
  await expect.poll(() => carriedOut.filter((one) => !answered.has(one))).toEqual([]);
});

/** Lets the worker's own time pass. */
async function ticks(worker: Worker, ms: number): Promise<void> {
  const until = Date.now() + ms;
  while (Date.now() < until) {
    await worker.totals();
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

/** Answers each call with 64 KiB, on each connection at this rate, as a mount target does that limits each of them. */
function answerAtRate(target: BindingTarget, bytesPerSecond: number): void {
  target.serve = () => null;
  const limited = new Map<BindingTarget['connections'][number], { answered: number; credit: number }>();
  let lastMs = performance.now();
  const timer = setInterval(() => {
    const nowMs = performance.now();
    const granted = ((nowMs - lastMs) / 1_000) * bytesPerSecond;
    lastMs = nowMs;
    for (const connection of target.open()) {
      const state = limited.get(connection) ?? { answered: 0, credit: 0 };
      limited.set(connection, state);
      state.credit += granted;
      for (; state.answered < connection.records.length && state.credit > 0; state.answered++) {
        const answer = reply(connection.records[state.answered]!.xid, 64 * 1024);
        connection.socket.write(answer);
        state.credit -= answer.length;
      }
      if (state.answered === connection.records.length) state.credit = Math.min(0, state.credit);
    }
  }, 10);
  stage.atEnd(async () => clearInterval(timer));
}

/** Bytes per second that a client gets which always has forty calls under way. */
async function measureRate(client: Socket, totalBytes: number): Promise<number> {
  const startedMs = performance.now();
  const split = createRecordSplitter();
  let xid = 1_000;
  let bytes = 0;
  const done = new Promise<void>((resolve) => {
    client.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      for (let count = split(chunk).length; count > 0; count--) client.write(call(++xid));
      if (bytes >= totalBytes) resolve();
    });
  });
  for (let count = 0; count < 40; count++) client.write(call(++xid));
  await done;
  return (bytes * 1_000) / (performance.now() - startedMs);
}

test('five connections of a mount target that limits each of them bring at least four times the rate of one', async () => {
  const rate = 1024 * 1024;
  const single = await start(never, { maxConnections: 1 });
  answerAtRate(single.target, rate);
  const wide = await startWide();
  answerAtRate(wide.target, rate);

  const [ofOne, ofFive] = await Promise.all([
    measureRate(await connectTo(single.port), 3 * rate),
    measureRate(wide.client, 15 * rate),
  ]);

  expect(ofOne).toBeLessThan(1.2 * rate);
  expect(ofFive / ofOne).toBeGreaterThan(4);
}, 60_000);

test.each([0, 1, 2, 3, 4])(
  'the loss of connection %i of five loses no request: what has no answer is repeated',
  async (lost) => {
    const { target, client, port } = await startWide();
    target.serve = ({ xid }) => (xid % 2 === 0 ? reply(xid) : null);
    const answered = new Set<number>();
    const split = createRecordSplitter();
    client.on('data', (chunk: Buffer) => {
      for (const { xid } of split(chunk)) answered.add(xid);
    });
    const xids = Array.from({ length: 40 }, (_, index) => 100 + index);
    client.write(Buffer.concat(xids.map((xid) => call(xid))));
    await expect.poll(() => answered.size).toBe(20);
    const ended = endOf(client);

    target.connections[lost]!.socket.destroy();

    await ended;
    target.serve = ({ xid }) => reply(xid);
    const next = await connectTo(port);
    for (const xid of xids) if (!answered.has(xid)) await ask(next, xid);
  },
);
