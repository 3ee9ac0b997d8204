import { beforeEach, expect, test } from 'vitest';
import { createWorkers, type WorkerChild, type Workers } from '../../src/agent/workers.ts';
import type { AgentToWorker, UpstreamFacts, WorkerToAgent } from '../../src/core/worker-protocol.ts';
import { FakeClock } from '../support/fake-clock.ts';

/** A worker's end of its channel. */
interface Peer {
  sent: AgentToWorker[];
  probes(): string[];
  killed(): boolean;
  say(message: WorkerToAgent): void;
  end(): void;
  child: WorkerChild;
}

function openPeer(pid: number): Peer {
  const sent: AgentToWorker[] = [];
  let say: (message: WorkerToAgent) => void = () => {};
  let end: (how: string) => void = () => {};
  let killed = false;
  return {
    sent,
    probes: () => sent.flatMap((message) => (message.kind === 'tunnel.probe' ? [message.tunnelId] : [])),
    killed: () => killed,
    say: (message) => say(message),
    end: () => end('killed by SIGKILL'),
    child: {
      pid,
      send: (message) => sent.push(message),
      onMessage: (listener) => {
        say = listener;
      },
      onExit: (listener) => {
        end = listener;
      },
      kill: () => {
        killed = true;
      },
    },
  };
}

const tls = { trustedRootsPem: [], serverName: 'name.invalid', client: null };
const upstream = { address: '10.1.1.6', port: 2049 } as UpstreamFacts;
const names = (first: number, last: number) =>
  Array.from({ length: last - first + 1 }, (_, at) => `tunnel-${first + at}`);

let clock: FakeClock;
let peers: Peer[];
let workers: Workers;
/** How each probe ended: `done`, or the code of its error. */
let ends: Map<string, string>;
/** How long the worker has waited for a processor, in milliseconds. */
let waitedMs: number | null;

beforeEach(() => {
  clock = new FakeClock(0);
  peers = [];
  ends = new Map();
  waitedMs = null;
  workers = createWorkers(
    {
      clock,
      log: () => {},
      random: () => 0.5,
      startWorker() {
        const peer = openPeer(peers.length + 1);
        peers.push(peer);
        return peer.child;
      },
      readWaitedMs: () => waitedMs,
      startMessage: () => ({
        kind: 'start',
        dropTo: null,
        budgetBytes: 1,
        stallTimeoutMs: 1,
        maxConnections: 1,
        callbackSocket: null,
      }),
    },
    { onMessage() {}, onTraffic() {}, onLost() {}, onReturned() {}, onReady() {} },
  );
});

test('a worker that is about to start is not taken for hung because thirty mounts ask for it', () => {
  names(1, 30).forEach(probe);

  expect(peers).toHaveLength(1);
  expect(peers[0]!.killed()).toBe(false);
});

test('a worker that is too busy for its pulse is not hung while it says something, and is when it falls silent', async () => {
  probe('tunnel-1');
  const peer = peers[0]!;
  peer.say({ kind: 'ready', pid: 1 });

  for (let second = 0; second < 20; second += 1) {
    await clock.pass(1_000);
    peer.say({ kind: 'log', level: 'debug', event: 'upstream.connected', fields: {} });
  }
  expect(peer.killed()).toBe(false);
  await clock.pass(10_000);

  expect(peer.killed()).toBe(true);
});

test('a worker in which nothing moves is asked for its pulse every two seconds, not every second', async () => {
  probe('tunnel-1');
  const peer = peers[0]!;
  peer.say({ kind: 'ready', pid: 1 });
  const pings = () => peer.sent.flatMap((message) => (message.kind === 'ping' ? [message.sequence] : []));

  for (let tenth = 0; tenth < 100; tenth += 1) {
    await clock.pass(100);
    const sequence = pings().at(-1);
    if (sequence !== undefined)
      peer.say({ kind: 'pong', sequence, tunnels: [], bufferedBytes: 0, isResting: true });
  }

  // The first after a second.
  expect(pings()).toEqual([1, 2, 3, 4, 5]);
});

test('a worker that has not started after twenty seconds is replaced', async () => {
  probe('tunnel-1');

  await clock.pass(19_000);
  expect(peers[0]!.killed()).toBe(false);
  await clock.pass(3_000);

  expect(peers[0]!.killed()).toBe(true);
});

/** Time passes in so many steps, in which the worker has no processor. */
async function starve(steps: number, stepMs: number): Promise<void> {
  for (let step = 1; step <= steps; step += 1) {
    await clock.pass(stepMs);
    waitedMs = step * stepMs;
  }
}

function probe(tunnelId: string): void {
  workers.openTunnel(tunnelId, tls, 10_000);
  workers.probe(tunnelId, [{ address: '10.1.1.6', port: 2049 }]).then(
    () => ends.set(tunnelId, 'done'),
    (error: { code: string }) => ends.set(tunnelId, error.code),
  );
}

function requestOf(peer: Peer, tunnelId: string): { tunnelId: string; requestId: number } {
  const asked = peer.sent.find((message) => message.kind === 'tunnel.probe' && message.tunnelId === tunnelId);
  if (asked?.kind !== 'tunnel.probe') throw new Error(`${tunnelId} was not probed`);
  return { tunnelId, requestId: asked.requestId };
}

function connect(peer: Peer, tunnelId: string): void {
  peer.say({ kind: 'probe.connected', ...requestOf(peer, tunnelId) });
}

function answer(peer: Peer, tunnelId: string): void {
  peer.say({ kind: 'probe.done', ...requestOf(peer, tunnelId), upstream });
}

test('of thirty mounts at once a worker greets four mount targets at a time, and every mount is done', async () => {
  names(1, 30).forEach(probe);
  const peer = peers[0]!;
  peer.say({ kind: 'ready', pid: 1 });

  expect(peer.probes()).toEqual(names(1, 4));
  for (let number = 1; number <= 30; number += 1) {
    answer(peer, `tunnel-${number}`);
    expect(peer.probes()).toEqual(names(1, Math.min(30, number + 4)));
  }

  await expect.poll(() => [...ends]).toEqual(names(1, 30).map((name) => [name, 'done']));
});

test('mount targets that are silent hold another one up for a second or two, not for their whole timeout', async () => {
  names(1, 5).forEach(probe);
  probe('answers');
  const peer = peers[0]!;
  peer.say({ kind: 'ready', pid: 1 });

  await clock.pass(1_000);
  answer(peer, 'answers');

  await expect.poll(() => [...ends]).toEqual([['answers', 'done']]);
});

test('handshakes that take seconds stay four at a time, and none of them is hurried by those that wait', async () => {
  names(1, 6).forEach(probe);
  const peer = peers[0]!;
  peer.say({ kind: 'ready', pid: 1 });
  for (const name of names(1, 4)) connect(peer, name);

  await clock.pass(4_000);
  expect(peer.probes()).toEqual(names(1, 4));
  answer(peer, 'tunnel-2');
  expect(peer.probes()).toEqual(names(1, 5));
});

test('mount targets that accept and say nothing more hold the next ones up for five seconds', async () => {
  names(1, 6).forEach(probe);
  const peer = peers[0]!;
  peer.say({ kind: 'ready', pid: 1 });
  for (const name of names(1, 4)) connect(peer, name);

  await clock.pass(5_000);

  expect(peer.probes()).toEqual(names(1, 6));
});

test('when the worker dies, those that it greets and those that wait are greeted by the next one', async () => {
  names(1, 20).forEach(probe);
  peers[0]!.say({ kind: 'ready', pid: 1 });

  peers[0]!.end();
  peers[1]!.say({ kind: 'ready', pid: 2 });
  for (const name of names(1, 20)) answer(peers[1]!, name);

  await expect.poll(() => [...ends]).toEqual(names(1, 20).map((name) => [name, 'done']));
});

test('a handshake during which two workers died is given up, and no third worker dies of it', async () => {
  probe('tunnel-1');
  peers[0]!.say({ kind: 'ready', pid: 1 });
  peers[0]!.end();
  peers[1]!.say({ kind: 'ready', pid: 2 });
  peers[1]!.end();
  await clock.pass(10_000);
  peers[2]!.say({ kind: 'ready', pid: 3 });

  await expect.poll(() => [...ends]).toEqual([['tunnel-1', 'tunnel.worker-lost']]);
  expect(peers[2]!.probes()).toEqual([]);
});

test('a worker that had no processor while it was silent is not taken for hung', async () => {
  probe('tunnel-1');
  const peer = peers[0]!;
  peer.say({ kind: 'ready', pid: 1 });
  waitedMs = 0;

  await starve(15, 1_000);
  expect(peer.killed()).toBe(false);
  await clock.pass(10_000);

  expect(peer.killed()).toBe(true);
});

test('nor is one that fell asleep in peace and had no processor when it was asked again, for ten seconds', async () => {
  probe('tunnel-1');
  const peer = peers[0]!;
  peer.say({ kind: 'ready', pid: 1 });
  waitedMs = 0;
  await clock.pass(1_000);
  peer.say({ kind: 'pong', sequence: 1, tunnels: [], bufferedBytes: 0, isResting: true });

  await starve(20, 500);
  expect(peer.killed()).toBe(false);
  await clock.pass(10_000);

  expect(peer.killed()).toBe(true);
});

test('a mount that is given up before its turn is not greeted for, and takes nobody’s turn', async () => {
  names(1, 6).forEach(probe);
  const peer = peers[0]!;
  peer.say({ kind: 'ready', pid: 1 });

  void workers.closeTunnel('tunnel-5');
  answer(peer, 'tunnel-1');

  await expect.poll(() => ends.get('tunnel-5')).toBe('interrupted');
  expect(peer.probes()).toEqual([...names(1, 4), 'tunnel-6']);
});

test('a worker that is killed again within a minute is replaced at once, not a second later', async () => {
  workers.openTunnel('tunnel', tls, 10_000);
  for (const pid of [1, 2]) {
    peers[pid - 1]!.say({ kind: 'ready', pid });
    await clock.pass(2_300);
    peers[pid - 1]!.end();
    await clock.pass(200);

    expect(peers).toHaveLength(pid + 1);
  }
});
