import { setTimeout as delay } from 'node:timers/promises';
import { asAgentError } from '../core/errors.ts';
import type { StatusReport } from '../core/status-report.ts';
import type { Caller } from '../helper/caller.ts';
import { readStatusReport } from '../helper/status.ts';
import { createPaint } from './paragraph.ts';
import { renderStatus } from './render.ts';
import { openScreen } from './screen.ts';
import { countPlaces, renderFrame } from './watch-frame.ts';
import { WatchHistory } from './watch-history.ts';

/** Keys that end it: q, Q, Ctrl-C, Ctrl-D. */
const endKeys = new Set(['q', 'Q', '\x03', '\x04']);

/**
 * Shows the status again and again until a key or a signal ends it: on the whole terminal, or where there is none as text,
 * one status after the other; with `json` a line for each.
 *
 * Errors: those of `readStatusReport`, before anything is drawn and later.
 */
export async function watchStatus(intervalMs: number, json: boolean, caller: Caller): Promise<void> {
  const first = await readStatusReport(caller);
  if (json || caller.outColumns === null) await repeatStatus(first, intervalMs, json, caller);
  else await drawStatus(first, intervalMs, caller);
}

async function repeatStatus(
  first: StatusReport,
  intervalMs: number,
  json: boolean,
  caller: Caller,
): Promise<void> {
  const { interruption } = caller;
  for (let report = first; ; report = await readStatusReport(caller)) {
    const nowMs = Date.now();
    caller.writeOut(
      json
        ? `${JSON.stringify(report)}\n`
        : `${new Date(nowMs).toISOString()}\n${renderStatus(report, { nowMs, width: null })}\n`,
    );
    await caller.pause(intervalMs);
    if (interruption.aborted) return;
  }
}

async function drawStatus(first: StatusReport, intervalMs: number, caller: Caller): Promise<void> {
  const history = new WatchHistory();
  const paint = createPaint(caller);
  const end = new AbortController();
  let report = first;
  let order: 'opened' | 'busiest' = 'opened';
  let skipped = 0;

  const draw = () => {
    const { columns, rows } = screen.size();
    const count = [report, ...report.otherNetworkNamespaces].reduce(
      (sum, agent) => sum + agent.mounts.length,
      0,
    );
    skipped = Math.max(0, Math.min(skipped, count - countPlaces(rows)));
    screen.draw(
      renderFrame({ report, history, columns, rows, skipped, order, intervalMs, nowMs: Date.now(), paint }),
    );
  };
  const onKey = (key: string) => {
    if (endKeys.has(key)) end.abort();
    else {
      if (key === 's') order = order === 'opened' ? 'busiest' : 'opened';
      else skipped += movementOf(key, countPlaces(screen.size().rows));
      draw();
    }
  };
  const interrupt = () => end.abort();
  caller.interruption.addEventListener('abort', interrupt);
  const screen = openScreen({ onKey, onResize: draw });
  const ended = new Promise<null>((resolve) => end.signal.addEventListener('abort', () => resolve(null)));
  try {
    while (!end.signal.aborted) {
      history.note(
        [report, ...report.otherNetworkNamespaces].flatMap(({ mounts }) => mounts),
        performance.now(),
      );
      draw();
      await delay(intervalMs, undefined, { signal: end.signal }).catch(() => {});
      // An agent that does not answer keeps nobody from leaving.
      report = (await Promise.race([readStatusReport(caller), ended])) ?? report;
    }
  } catch (thrown) {
    if (asAgentError(thrown).code !== 'interrupted') throw thrown;
  } finally {
    caller.interruption.removeEventListener('abort', interrupt);
    screen.close();
  }
}

/** How far a key scrolls: arrows, j and k by one, Page Up and Page Down by a screen, Home and End to the end. */
function movementOf(key: string, page: number): number {
  switch (key) {
    case '\x1b[A':
    case '\x1bOA':
    case 'k':
      return -1;
    case '\x1b[B':
    case '\x1bOB':
    case 'j':
      return 1;
    case '\x1b[5~':
      return -page;
    case '\x1b[6~':
    case ' ':
      return page;
    case '\x1b[H':
    case '\x1b[1~':
      return Number.NEGATIVE_INFINITY;
    case '\x1b[F':
    case '\x1b[4~':
      return Number.MAX_SAFE_INTEGER;
    default:
      return 0;
  }
}
