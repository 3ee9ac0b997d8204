import type { MountReport } from '../core/status-report.ts';

/** Bytes per second, up and down. */
export interface Rate {
  up: number;
  down: number;
}

interface Past {
  bytesUp: number;
  bytesDown: number;
  /** The oldest first. */
  rates: Rate[];
}

/** Samples that are kept of each mount. */
const mostSamples = 120;

/** What the mounts have moved since one began to look, sample by sample. */
export class WatchHistory {
  #pasts = new Map<string, Past>();
  #atMonoMs = Number.NaN;

  /** Takes the next sample; mounts that are gone are forgotten. Units: monotonic milliseconds. */
  note(mounts: readonly MountReport[], nowMonoMs: number): void {
    const elapsedMs = Math.max(1, nowMonoMs - this.#atMonoMs);
    const next = new Map<string, Past>();
    for (const mount of mounts) {
      const { mountId, bytesUp, bytesDown, bytesUpPerSecond, bytesDownPerSecond } = mount;
      const past = this.#pasts.get(mountId);
      // A counter that went back is another tunnel's; of the first sample the agent knows the rate.
      const isNext = past !== undefined && bytesUp >= past.bytesUp && bytesDown >= past.bytesDown;
      const rate = isNext
        ? {
            up: ((bytesUp - past.bytesUp) * 1_000) / elapsedMs,
            down: ((bytesDown - past.bytesDown) * 1_000) / elapsedMs,
          }
        : { up: bytesUpPerSecond, down: bytesDownPerSecond };
      const rates = [...(past?.rates ?? []), rate].slice(-mostSamples);
      next.set(mountId, { bytesUp, bytesDown, rates });
    }
    this.#pasts = next;
    this.#atMonoMs = nowMonoMs;
  }

  /** The rates of a mount, the oldest first. */
  ratesOf(mountId: string): readonly Rate[] {
    return this.#pasts.get(mountId)?.rates ?? [];
  }

  /** The last rate of a mount. */
  lastRateOf(mountId: string): Rate {
    return this.ratesOf(mountId).at(-1) ?? { up: 0, down: 0 };
  }
}

const bars = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'] as const;

/** The last values as a line of bars, as high as the highest of them allows; the newest is on the right. */
export function drawSparkline(values: readonly number[], width: number): string {
  const shown = values.slice(-width);
  const most = Math.max(...shown, 1);
  const line = shown.map((value) => bars[Math.ceil((value / most) * (bars.length - 1))]!);
  return line.join('').padStart(width);
}
