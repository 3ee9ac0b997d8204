const looks = 10;

/**
 * Calls `over` once `limitMs` have passed in which this process was able to act, unless it is cancelled before.
 *
 * It looks ten times, and a look that comes late counts once: what was sent to a process that had to wait for the
 * processor is heard before anybody is blamed for silence.
 *
 * Units: milliseconds. Source: our choice, docs/decisions/0010.
 */
export function startPatience(
  schedule: (delayMs: number, run: () => void) => { cancel(): void },
  limitMs: number,
  over: () => void,
): { cancel(): void } {
  let left = looks;
  let timer = schedule(limitMs / looks, look);
  function look(): void {
    left -= 1;
    if (left === 0) over();
    else timer = schedule(limitMs / looks, look);
  }
  return { cancel: () => timer.cancel() };
}
