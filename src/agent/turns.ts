import type { Clock } from '../core/ports.ts';

/** Lets only a few jobs be in their first moments at once. */
export interface Turns {
  /**
   * Calls `begin` as soon as there is room, at once if there is now. The function returned is for the end of the job,
   * or for one that is not wanted any more: it makes room, and what has not begun then never does.
   */
  take(begin: () => void): () => void;
}

/**
 * At most `atOnce` jobs hold a place; one that goes on for longer than `turnMs` keeps going, and its place is the next
 * one's: what hangs delays nobody for long.
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
      let leave = () => {};
      const start = () => {
        places -= 1;
        const timer = clock.schedule(turnMs, () => leave());
        leave = () => {
          timer.cancel();
          leave = () => {};
          places += 1;
          next();
        };
        begin();
      };
      waiting.add(start);
      next();
      return () => {
        waiting.delete(start);
        leave();
      };
    },
  };
}
