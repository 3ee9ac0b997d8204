import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  decideWorker,
  doubtedTickMs,
  initialWorkerState,
  planTickMs,
  restingTickMs,
  silentTicks,
  startingTicks,
  tickMs,
  unwantedTicks,
  type WorkerAction,
  type WorkerEvent,
  type WorkerState,
} from '../../src/core/supervision.ts';

/** A worker under supervision, on a clock that only `tick` moves. */
class Supervised {
  state: WorkerState = initialWorkerState;
  monoMs = 0;
  readonly actions: WorkerAction[] = [];
  readonly random: number;

  constructor(random = 0.5) {
    this.random = random;
  }

  feed(event: WorkerEvent): WorkerAction[] {
    const [next, actions] = decideWorker(this.state, event, this.monoMs, this.random);
    this.state = next;
    this.actions.push(...actions);
    return actions;
  }

  tick(wanted = true, couldRun = 1): WorkerAction[] {
    this.monoMs += tickMs;
    return this.feed({ kind: 'tick', wanted, couldRun });
  }

  /** One tick, answered by a pong if it asked for one. */
  liveTick(wanted = true): WorkerAction[] {
    const actions = this.tick(wanted);
    for (const action of actions)
      if (action.kind === 'ping') this.feed({ kind: 'pong', sequence: action.sequence, isResting: false });
    return actions;
  }

  startUp(): void {
    this.tick();
    this.feed({ kind: 'ready' });
  }

  /** How many ticks pass until it is started again after it has ended. */
  ticksToRestart(): number {
    this.feed({ kind: 'exited' });
    for (let ticks = 0; ticks <= 60; ticks += 1) {
      // The agent ticks at once when a worker ends.
      const actions = ticks === 0 ? this.feed({ kind: 'tick', wanted: true, couldRun: 1 }) : this.tick();
      if (actions.some((action) => action.kind === 'start')) return ticks;
    }
    throw new Error('it was never started again');
  }
}

const fraction = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
const anyEvent: fc.Arbitrary<WorkerEvent> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({ kind: fc.constant('tick' as const), wanted: fc.boolean(), couldRun: fraction }),
  },
  { weight: 2, arbitrary: fc.constant({ kind: 'ready' as const }) },
  { weight: 2, arbitrary: fc.constant({ kind: 'exited' as const }) },
  { weight: 2, arbitrary: fc.constant({ kind: 'stirred' as const }) },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('pong' as const),
      sequence: fc.nat(20),
      isResting: fc.boolean(),
    }),
  },
);
const history = fc.array(anyEvent, { maxLength: 200 });

function replay(events: readonly WorkerEvent[], random: number): Supervised {
  const worker = new Supervised(random);
  for (const event of events) {
    if (event.kind === 'tick') worker.tick(event.wanted, event.couldRun);
    else worker.feed(event);
  }
  return worker;
}

const kinds = (actions: readonly WorkerAction[]) => actions.map((action) => action.kind);

test('nothing is started while no tunnel wants a worker', () => {
  fc.assert(
    fc.property(history, fraction, (events, random) => {
      const unwanted = events.map((event) => (event.kind === 'tick' ? { ...event, wanted: false } : event));

      expect(kinds(replay(unwanted, random).actions)).not.toContain('start');
    }),
  );
});

test('the first tunnel has its worker started at the next tick', () => {
  expect(new Supervised().tick()).toEqual([{ kind: 'start' }]);
});

test('a worker is never started while another is there', () => {
  fc.assert(
    fc.property(history, fraction, (events, random) => {
      const worker = new Supervised(random);
      let there = false;
      for (const event of events) {
        if (event.kind === 'exited') there = false;
        for (const action of event.kind === 'tick' ? worker.tick(event.wanted) : worker.feed(event)) {
          if (action.kind === 'dismiss') there = false;
          if (action.kind !== 'start') continue;
          expect(there).toBe(false);
          there = true;
        }
      }
    }),
  );
});

test('a worker that stops answering is killed one tick after its last chance, whatever happened before', () => {
  fc.assert(
    fc.property(history, fraction, (events, random) => {
      const worker = replay(events, random);
      if (worker.state.kind === 'down') return;
      if (worker.state.kind === 'starting') worker.feed({ kind: 'ready' });

      const silent = Array.from({ length: silentTicks + 1 }, () => worker.tick());

      expect(silent.flatMap(kinds)).toContain('kill');
    }),
  );
});

test('a worker without a processor is not killed for its silence; one that never answers is, if later', () => {
  const worker = new Supervised();
  worker.startUp();
  worker.tick();

  const starved = Array.from({ length: 25 }, () => worker.tick(true, 0));
  expect(starved.flatMap(kinds)).not.toContain('kill');
  const still = Array.from({ length: 10 }, () => worker.tick(true, 0));

  expect(still.flatMap(kinds)).toContain('kill');
});

test('a worker that had the processor half of the time is given twice as long', () => {
  const worker = new Supervised();
  worker.startUp();
  worker.tick();

  const silent = Array.from({ length: 2 * (silentTicks - 1) + 1 }, () => kinds(worker.tick(true, 0.5)));

  expect(silent.findIndex((did) => did.includes('kill'))).toBe(2 * (silentTicks - 1));
});

test('a worker that answers every pulse is never killed', () => {
  fc.assert(
    fc.property(fc.array(fc.boolean(), { maxLength: 300 }), (wanted) => {
      const worker = new Supervised();
      worker.startUp();

      for (const each of wanted) worker.liveTick(each);

      expect(kinds(worker.actions)).not.toContain('kill');
    }),
  );
});

test('the pulse of a worker that rests is felt more rarely, until it stirs or does not answer', () => {
  const worker = new Supervised();
  worker.startUp();
  const answer = (isResting: boolean) => {
    for (const action of worker.tick())
      if (action.kind === 'ping') worker.feed({ kind: 'pong', sequence: action.sequence, isResting });
  };

  answer(false);
  expect(planTickMs(worker.state, true, 0)).toBe(tickMs);
  answer(true);
  expect(planTickMs(worker.state, true, 0)).toBe(restingTickMs);
  expect(planTickMs(worker.state, false, 0)).toBe(tickMs);
  worker.feed({ kind: 'stirred' });
  expect(planTickMs(worker.state, true, 0)).toBe(tickMs);
  answer(true);
  worker.tick();
  expect(planTickMs(worker.state, true, 0)).toBe(restingTickMs);
  worker.tick();
  expect(planTickMs(worker.state, true, 0)).toBe(doubtedTickMs);
  worker.feed({ kind: 'spoke' });
  expect(planTickMs(worker.state, true, 0)).toBe(restingTickMs);
});

test.each([true, false])(
  'a worker that hangs right after an answer is killed within 5.5 seconds (at rest: %s)',
  (isResting) => {
    const worker = new Supervised();
    worker.startUp();
    for (const action of worker.tick())
      if (action.kind === 'ping') worker.feed({ kind: 'pong', sequence: action.sequence, isResting });
    let passedMs = 0;

    for (let isKilled = false; !isKilled; ) {
      passedMs += planTickMs(worker.state, true, worker.monoMs);
      isKilled = worker.tick().some(({ kind }) => kind === 'kill');
    }

    expect(passedMs).toBeLessThanOrEqual(5_500);
  },
);

test('a late answer to an older pulse does not clear the newer ones', () => {
  const worker = new Supervised();
  worker.startUp();

  worker.tick();
  worker.tick();
  worker.feed({ kind: 'pong', sequence: 1, isResting: false });

  expect(worker.state).toMatchObject({ kind: 'up', unanswered: 2 });
});

test('an agent that was stopped for an hour does not blame its worker', () => {
  const worker = new Supervised();
  worker.startUp();
  worker.liveTick();

  worker.monoMs += 3_600_000;

  expect(kinds(worker.liveTick())).toEqual(['ping']);
});

test('a worker that never becomes ready is killed', () => {
  const worker = new Supervised();
  worker.tick();

  const starting = Array.from({ length: startingTicks + 1 }, () => kinds(worker.tick()));

  expect(starting.slice(0, startingTicks).flat()).toEqual([]);
  expect(starting.at(-1)).toEqual(['kill']);
});

test('the first restart is immediate, later ones wait longer and never longer than ten seconds', () => {
  fc.assert(
    fc.property(fraction, (random) => {
      const worker = new Supervised(random);
      worker.startUp();

      const waits = Array.from({ length: 12 }, () => worker.ticksToRestart());

      expect(waits[0]).toBe(0);
      expect(waits).toEqual(waits.toSorted((a, b) => a - b));
      expect(Math.max(...waits)).toBeLessThanOrEqual(10);
    }),
  );
});

test('a worker that served for three seconds has earned an immediate restart', () => {
  const worker = new Supervised();
  worker.startUp();
  for (let fall = 0; fall < 5; fall += 1) worker.ticksToRestart();
  worker.feed({ kind: 'ready' });
  for (let second = 0; second < 3; second += 1) worker.liveTick();

  expect(worker.ticksToRestart()).toBe(0);
});

test('however soon workers end, no more than 90 are started in a minute', () => {
  const livesMs = fc.array(fc.constantFrom(0, 100, 2_999, 3_000, 5_500), { minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(livesMs, fraction, (lives, random) => {
      const worker = new Supervised(random);
      let starts = 0;

      while (worker.monoMs < 60_000) {
        starts += worker.feed({ kind: 'tick', wanted: true, couldRun: 1 }).length;
        if (worker.state.kind === 'starting') {
          worker.feed({ kind: 'ready' });
          worker.monoMs += lives[starts % lives.length]!;
          worker.feed({ kind: 'exited' });
        }
        worker.monoMs += Math.max(1, planTickMs(worker.state, true, worker.monoMs));
      }

      expect(starts).toBeLessThanOrEqual(90);
    }),
  );
});

test('a worker without tunnels stays a minute for the next mount, then is let go', () => {
  const worker = new Supervised();
  worker.startUp();

  const waiting = Array.from({ length: unwantedTicks }, () => kinds(worker.liveTick(false)));

  expect(waiting.flat()).not.toContain('dismiss');
  expect(kinds(worker.liveTick(false))).toEqual(['dismiss']);
  expect(kinds(worker.tick(false))).toEqual([]);
});

test('a mount within that minute keeps the worker', () => {
  const worker = new Supervised();
  worker.startUp();
  for (let second = 0; second < unwantedTicks; second += 1) worker.liveTick(false);

  worker.liveTick(true);

  expect(kinds(worker.liveTick(false))).toEqual(['ping']);
});
