import type { Clock } from './ports.ts';

/** Lets only a few jobs be in their first moments at once. */
export interface Turns {
  /**
   * Calls `begin` as soon as there is room, at once if there is now. Owners that wait are served in rotation: one with
   * many jobs keeps nobody waiting for all of them.
   */
  take(owner: string, begin: () => void): Turn;
}

export interface Turn {
  /** The job has come so far that it may hold its place for so long from now. */
  extend(forMs: number): void;
  /** At the end of the job, or when it is not wanted any more: makes room, and what has not begun then never does. */
  leave(): void;
}

/**
 * At most `atOnce` jobs hold a place; one that goes on for longer than `turnMs`, or than it was given, keeps going, and
 * its place is the next one's: what hangs delays nobody for long.
 *
 * Units: milliseconds.
 */
export function createTurns(clock: Pick<Clock, 'schedule'>, atOnce: number, turnMs: number): Turns {
  /** By owner, the next to be served first. */
  const waiting = new Map<string, Set<() => void>>();
  let places = atOnce;

  function next(): void {
    while (places > 0) {
      const [first] = waiting;
      if (first === undefined) return;
      const [owner, starts] = first;
      const [start] = starts;
      waiting.delete(owner);
      starts.delete(start!);
      if (starts.size > 0) waiting.set(owner, starts);
      start!();
    }
  }

  return {
    take(owner, begin) {
      /** Null: it has no place yet, or not any more. */
      let timer: { cancel(): void } | null = null;
      const leave = () => {
        const starts = waiting.get(owner);
        if (starts?.delete(start) && starts.size === 0) waiting.delete(owner);
        if (timer === null) return;
        timer.cancel();
        timer = null;
        places += 1;
        next();
      };
      const start = () => {
        places -= 1;
        timer = clock.schedule(turnMs, leave);
        begin();
      };
      const starts = waiting.get(owner) ?? new Set();
      waiting.set(owner, starts.add(start));
      next();
      return {
        extend(forMs) {
          if (timer === null) return;
          timer.cancel();
          timer = clock.schedule(forMs, leave);
        },
        leave,
      };
    },
  };
}
