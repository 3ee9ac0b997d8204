import type { Clock } from '../core/ports.ts';

/** Lets only a few jobs be in their first moments at once. */
export interface Turns {
  /** Calls `begin` as soon as there is room, at once if there is now. */
  take(begin: () => void): Turn;
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
export function createTurns(clock: Clock, atOnce: number, turnMs: number): Turns {
  const waiting = new Set<() => void>();
  let places = atOnce;

  function next(): void {
    for (const start of waiting) {
      if (places === 0) return;
      waiting.delete(start);
      start();
    }
  }

  return {
    take(begin) {
      /** Null: it has no place yet, or not any more. */
      let timer: { cancel(): void } | null = null;
      const leave = () => {
        waiting.delete(start);
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
      waiting.add(start);
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
