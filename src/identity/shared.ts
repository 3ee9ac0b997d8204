/**
 * Gives a function that asks once for all who want the same thing at the same time, and keeps an answer while it is fresh.
 *
 * A failure is told to all who waited for it and is not kept.
 *
 * Units: `now` and the result of `freshUntilMs` are epoch milliseconds.
 */
export function createShared<T>(
  now: () => number,
  freshUntilMs: (answer: T) => number,
): (key: string, ask: () => Promise<T>) => Promise<T> {
  const kept = new Map<string, { answer: Promise<T>; freshUntilMs: number }>();
  return (key, ask) => {
    const known = kept.get(key);
    if (known && now() < known.freshUntilMs) return known.answer;
    const asked = { answer: ask(), freshUntilMs: Number.POSITIVE_INFINITY };
    kept.set(key, asked);
    asked.answer.then(
      (answer) => {
        asked.freshUntilMs = freshUntilMs(answer);
      },
      () => {
        asked.freshUntilMs = 0;
      },
    );
    return asked.answer;
  };
}
