import { planDelayMs } from './backoff.ts';

/**
 * Decides when a tunnel worker is started, asked for its pulse, replaced, and let go.
 *
 * Silence is counted in ticks that went by unanswered, not in seconds: when the agent itself was stopped
 * or starved, no ticks passed, and nobody is blamed for the gap. Nor is a worker for a tick in which it was ready to
 * run and had no processor; a worker that is stopped, asleep or busy with itself does not wait for one.
 */
export type WorkerState =
  | { kind: 'down'; failures: number; dueMonoMs: number }
  | { kind: 'starting'; failures: number; ticks: number }
  | {
      kind: 'up';
      failures: number;
      sinceMonoMs: number;
      sequence: number;
      unanswered: number;
      unwanted: number;
      /** Nothing moves in it: its pulse may be felt more rarely. */
      isResting: boolean;
    };

export type WorkerEvent =
  /**
   * Time passes; `wanted` says whether any tunnel needs a worker, `couldRun` in which part of the time since the last
   * tick the worker did not wait for a processor.
   */
  | { kind: 'tick'; wanted: boolean; couldRun: number }
  | { kind: 'ready' }
  | { kind: 'exited' }
  | { kind: 'pong'; sequence: number; isResting: boolean }
  | { kind: 'stirred' }
  /** It said anything at all: what speaks does not hang, however busy it is. */
  | { kind: 'spoke' };

export type WorkerAction =
  | { kind: 'start' }
  | { kind: 'kill' }
  | { kind: 'dismiss' }
  | { kind: 'ping'; sequence: number };

/** One tick, in milliseconds. */
export const tickMs = 1_000;
/** The same while the worker rests: an idle machine is left asleep. */
export const restingTickMs = 2_000;
/** The same once it has let such a long tick go by without an answer: one that hangs is found as soon as one that works. */
export const doubtedTickMs = 500;
/** Ticks without a pong after which a worker counts as hung. */
export const silentTicks = 4;
/** What a silent tick counts at least: a worker that computes for ever beside many others must not go on for ever. */
export const leastSilence = 0.1;
/** Ticks a worker may take to become ready. Emulated machines need several seconds for the first line of Node. */
export const startingTicks = 20;
/** Ticks a worker without any tunnel stays for the next mount. */
export const unwantedTicks = 60;
/** A worker that served this long has earned an immediate restart: what ends again and again after that is started 20 times a minute. */
const steadyMs = 3_000;

export const initialWorkerState: WorkerState = { kind: 'down', failures: 0, dueMonoMs: 0 };

/**
 * One step of supervision.
 *
 * Units: `nowMonoMs` monotonic milliseconds; `random` in [0, 1). Errors: none. Source: our choice; the
 * first restart is immediate because local connections wait in the agent meanwhile.
 */
export function decideWorker(
  state: WorkerState,
  event: WorkerEvent,
  nowMonoMs: number,
  random: number,
): [WorkerState, WorkerAction[]] {
  switch (event.kind) {
    case 'tick':
      return decideOnTick(state, event, nowMonoMs);
    case 'ready':
      if (state.kind !== 'starting') return [state, []];
      return [
        {
          kind: 'up',
          failures: state.failures,
          sinceMonoMs: nowMonoMs,
          sequence: 0,
          unanswered: 0,
          unwanted: 0,
          isResting: false,
        },
        [],
      ];
    case 'pong':
      if (state.kind !== 'up' || event.sequence !== state.sequence) return [state, []];
      return [{ ...state, unanswered: 0, isResting: event.isResting }, []];
    case 'spoke':
      return [state.kind === 'up' ? { ...state, unanswered: 0 } : state, []];
    case 'stirred':
      return [state.kind === 'up' ? { ...state, isResting: false } : state, []];
    case 'exited': {
      if (state.kind === 'down') return [state, []];
      const steady = state.kind === 'up' && nowMonoMs - state.sinceMonoMs >= steadyMs;
      const failures = steady ? 1 : state.failures + 1;
      const delayMs = failures === 1 ? 0 : planDelayMs(failures - 1, random);
      return [{ kind: 'down', failures, dueMonoMs: nowMonoMs + delayMs }, []];
    }
  }
}

/**
 * How long until the next tick. A worker that nobody wants is dismissed after so many ticks; one that is waited for is started
 * when it is due, not at the tick after that.
 *
 * Units: milliseconds; `nowMonoMs` monotonic. Errors: none.
 */
export function planTickMs(state: WorkerState, wanted: boolean, nowMonoMs: number): number {
  if (state.kind === 'down') return Math.max(0, Math.min(tickMs, state.dueMonoMs - nowMonoMs));
  if (!wanted || state.kind !== 'up' || !state.isResting) return tickMs;
  return state.unanswered <= 1 ? restingTickMs : doubtedTickMs;
}

function decideOnTick(
  state: WorkerState,
  { wanted, couldRun }: Extract<WorkerEvent, { kind: 'tick' }>,
  nowMonoMs: number,
): [WorkerState, WorkerAction[]] {
  const counted = Math.max(couldRun, leastSilence);
  switch (state.kind) {
    case 'down':
      if (!wanted || nowMonoMs < state.dueMonoMs) return [state, []];
      return [{ kind: 'starting', failures: state.failures, ticks: 0 }, [{ kind: 'start' }]];
    case 'starting': {
      const next = { ...state, ticks: state.ticks + counted };
      return [next, next.ticks > startingTicks ? [{ kind: 'kill' }] : []];
    }
    case 'up': {
      const unwanted = wanted ? 0 : state.unwanted + 1;
      if (unwanted > unwantedTicks) return [initialWorkerState, [{ kind: 'dismiss' }]];
      if (state.unanswered >= silentTicks) return [state, [{ kind: 'kill' }]];
      const sequence = state.sequence + 1;
      const silence = state.unanswered === 0 ? 1 : counted;
      return [
        { ...state, unwanted, sequence, unanswered: state.unanswered + silence },
        [{ kind: 'ping', sequence }],
      ];
    }
  }
}
