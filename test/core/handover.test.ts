import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decideHandover, type HandoverEvent, nothingHanded } from '../../src/core/handover.ts';

interface Worker {
  pid: number;
  isAlive: boolean;
  /** What the agent has sent and the worker has not read. */
  inbox: { kind: 'open' | 'go'; sessionId: number }[];
  /** What the worker has sent and the agent has not read. */
  outbox: { kind: 'taken' | 'closed'; sessionId: number }[];
  holds: Set<number>;
  reads: Set<number>;
}

/** An agent with connections and workers that read and say their messages whenever they like, hang, and die. */
class World {
  state = nothingHanded;
  /** Connections of which the agent has a copy: waiting for a worker, or on their way to one. */
  readonly agentHolds = new Set<number>();
  readonly waiting: number[] = [];
  readonly everRead = new Set<number>();
  readonly workers: Worker[] = [];
  current: Worker | null = null;
  sessions = 0;

  feed(event: HandoverEvent): void {
    const [next, actions] = decideHandover(this.state, event);
    this.state = next;
    for (const { kind, sessionId } of actions) {
      if (kind === 'let-go') this.agentHolds.delete(sessionId);
      if (kind === 'go') this.current?.inbox.push({ kind: 'go', sessionId });
      if (kind === 'return') this.waiting.push(sessionId);
    }
  }

  connect(): void {
    this.sessions += 1;
    this.agentHolds.add(this.sessions);
    this.waiting.push(this.sessions);
  }

  start(): void {
    if (this.current !== null) return;
    const pid = this.workers.length + 1;
    this.current = { pid, isAlive: true, inbox: [], outbox: [], holds: new Set(), reads: new Set() };
    this.workers.push(this.current);
  }

  handOver(): void {
    const worker = this.current;
    if (worker === null) return;
    for (const sessionId of this.waiting.splice(0)) {
      worker.inbox.push({ kind: 'open', sessionId });
      this.feed({ kind: 'handed', sessionId, worker: worker.pid });
    }
  }

  workerActs(refuses: boolean): void {
    const worker = this.current;
    const message = worker?.isAlive ? worker.inbox.shift() : undefined;
    if (worker === null || message === undefined) return;
    const { kind, sessionId } = message;
    if (kind === 'open' && refuses) worker.outbox.push({ kind: 'closed', sessionId });
    else if (kind === 'open') {
      worker.holds.add(sessionId);
      worker.outbox.push({ kind: 'taken', sessionId });
    } else if (worker.holds.has(sessionId)) {
      worker.reads.add(sessionId);
      this.everRead.add(sessionId);
    }
  }

  workerEnds(): void {
    const worker = this.current;
    const [sessionId] = worker?.isAlive ? worker.holds : [];
    if (worker === null || sessionId === undefined) return;
    worker.holds.delete(sessionId);
    worker.reads.delete(sessionId);
    worker.outbox.push({ kind: 'closed', sessionId });
  }

  agentHears(): void {
    const message = this.current?.outbox.shift();
    if (message !== undefined) this.feed({ ...message, worker: this.current!.pid });
  }

  kill(): void {
    if (this.current === null) return;
    this.current.isAlive = false;
    this.current.holds.clear();
    this.current.reads.clear();
  }

  /** The end of a process is heard after what it has said, or some of that is lost with it. */
  bury(): void {
    if (this.current?.isAlive !== false) return;
    const { pid } = this.current;
    this.current = null;
    this.feed({ kind: 'worker-lost', worker: pid });
  }

  readers(sessionId: number): number {
    return this.workers.filter(({ reads }) => reads.has(sessionId)).length;
  }
}

const steps: Record<string, (world: World) => void> = {
  'the kernel connects': (world) => world.connect(),
  'a worker starts': (world) => world.start(),
  'connections are handed over': (world) => world.handOver(),
  'the worker reads a message': (world) => world.workerActs(false),
  'the worker refuses': (world) => world.workerActs(true),
  'the worker ends a session': (world) => world.workerEnds(),
  'the agent reads a message': (world) => world.agentHears(),
  'the worker dies': (world) => world.kill(),
  'its end is heard': (world) => world.bury(),
  'an old worker speaks of a session': (world) =>
    world.feed({ kind: 'taken', sessionId: world.sessions, worker: 0 }),
};
const history = fc.array(fc.constantFrom(...Object.keys(steps)), { maxLength: 120 });

function run(names: readonly string[], check: (world: World) => void): World {
  const world = new World();
  for (const name of names) {
    steps[name]!(world);
    check(world);
  }
  return world;
}

test('whatever happens, no two processes may read from one connection, the agent with its copy included', () => {
  fc.assert(
    fc.property(history, (names) => {
      run(names, (world) => {
        for (let sessionId = 1; sessionId <= world.sessions; sessionId += 1) {
          expect(world.readers(sessionId)).toBeLessThanOrEqual(1);
          if (world.readers(sessionId) === 1) expect(world.agentHolds.has(sessionId)).toBe(false);
        }
      });
    }),
    { numRuns: 2_000 },
  );
});

test('a connection of which a byte may have been read is never given to another worker', () => {
  fc.assert(
    fc.property(history, (names) => {
      run(names, (world) => {
        for (const sessionId of world.waiting) expect(world.everRead.has(sessionId)).toBe(false);
      });
    }),
    { numRuns: 2_000 },
  );
});

test('once a worker stays, every connection is carried by it or has ended, and the agent holds none', () => {
  fc.assert(
    fc.property(history, (names) => {
      const world = run(names, () => {});
      world.bury();
      world.start();
      world.handOver();

      while (world.current!.inbox.length > 0 || world.current!.outbox.length > 0) {
        world.workerActs(false);
        world.agentHears();
      }

      const carried = [...world.state].map(([sessionId]) => sessionId);
      expect([...world.agentHolds]).toEqual([]);
      expect(world.waiting).toEqual([]);
      expect(new Set(carried)).toEqual(world.current!.reads);
    }),
    { numRuns: 2_000 },
  );
});
