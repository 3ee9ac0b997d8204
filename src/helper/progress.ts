import type { Caller } from './caller.ts';

export interface Progress {
  /** A phase that has begun, and when, since the start of the mount. */
  show(phase: string, elapsedMs: number): void;
  end(): void;
}

/**
 * Shows the phases of a mount on stderr: all of them with `-v`; otherwise only to a person at a terminal, and
 * only of a mount that is slow, from the phase it is slow in.
 */
export function createProgress(verbose: boolean, caller: Caller): Progress {
  let shown = verbose;
  let latest: string | null = null;
  const timer =
    verbose || !caller.stderrIsTerminal
      ? undefined
      : setTimeout(() => {
          shown = true;
          if (latest !== null) caller.writeError(latest);
        }, caller.limits.slowMountMs);
  return {
    show(phase, elapsedMs) {
      latest = `${caller.program}: ${String(Math.round(elapsedMs)).padStart(6)} ms  ${phase}\n`;
      if (shown) caller.writeError(latest);
    },
    end: () => clearTimeout(timer),
  };
}
