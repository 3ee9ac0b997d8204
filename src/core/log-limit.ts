/** Lines of one event about one thing that are written in a window. */
const mostAlike = 5;
/** Lines of one event in a window, whatever they are about. */
const mostOfEvent = 200;
/** Things that lines are told apart by, in a window: a worker that was broken into may invent them. */
const mostThings = 1_000;

/** Length of a window, in milliseconds. */
export const logWindowMs = 10_000;

/** A line that was held back, the last of `count` that were alike. */
export interface HeldLine<Line> {
  line: Line;
  count: number;
}

interface Bucket<Line> {
  admitted: number;
  held: HeldLine<Line> | null;
}

/**
 * Holds back the lines of events that repeat themselves within a window, and tells at its end of how many.
 *
 * Source: our choice: a mount target that resets every connection makes some hundred lines a second, and the journal
 * would drop others for them.
 */
export class LogLimit<Line> {
  readonly #buckets = new Map<string, Bucket<Line>>();

  /** No line has come in this window. */
  get isEmpty(): boolean {
    return this.#buckets.size === 0;
  }

  /** Whether a line may be written now. @param about what it is about, such as a mount; empty = nothing in particular. */
  admit(event: string, about: string, line: Line): boolean {
    const alike = `${event} ${about}`;
    const isToldApart = this.#buckets.has(alike) || this.#buckets.size < mostThings;
    return (!isToldApart || this.#take(alike, mostAlike, line)) && this.#take(event, mostOfEvent, line);
  }

  /** Begins the next window; says what was held back in this one. */
  endWindow(): HeldLine<Line>[] {
    const held = [...this.#buckets.values()].flatMap((bucket) => (bucket.held === null ? [] : [bucket.held]));
    this.#buckets.clear();
    return held;
  }

  #take(key: string, most: number, line: Line): boolean {
    const bucket = this.#buckets.get(key) ?? { admitted: 0, held: null };
    this.#buckets.set(key, bucket);
    if (bucket.admitted < most) {
      bucket.admitted += 1;
      return true;
    }
    bucket.held = { line, count: (bucket.held?.count ?? 0) + 1 };
    return false;
  }
}
