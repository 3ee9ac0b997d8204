import type { ScaleSettings } from './bind-call.ts';

/** The load of one session, as of its last tick. */
export interface ScaleState {
  bytes: number;
  /** Ticks in a row at or above the threshold. */
  busyTicks: number;
  /** Ticks in a row far below it. */
  calmTicks: number;
}

export interface ScaleObservation {
  nowTick: number;
  /** Bytes carried so far, both directions together. */
  bytes: number;
  connections: number;
  /** As the mount target said last; null = it has not. */
  settings: ScaleSettings | null;
  /** Most connections that the administrator allows. */
  limit: number;
  /** No search before this tick. */
  searchFromTick: number;
}

export type ScaleAction = 'widen' | 'narrow' | null;

export const initialScaleState: ScaleState = { bytes: 0, busyTicks: 0, calmTicks: 0 };

/** Ticks of calm after which a session goes back to one connection. */
const calmLimitTicks = 300;
/** Below this part of the threshold a session is calm. */
const calmPart = 1 / 8;
/** Ticks after a search that found too little. Source: specification 4.2. */
export const searchPauseTicks = 300;

/**
 * Says at each tick of one second whether a session should get more connections, or go back to one.
 *
 * It widens once, from one connection; what was found then stays until it is calm.
 *
 * Units: bytes, ticks of a second. Errors: none. Source: specification 4.1 and 4.2, except that the duration the
 * mount target asks for is obeyed here, where the reference always measures over three seconds.
 */
export function decideScale(state: ScaleState, now: ScaleObservation): [ScaleState, ScaleAction] {
  const { settings } = now;
  if (settings === null) return [{ ...initialScaleState, bytes: now.bytes }, null];
  const bytesPerSec = now.bytes - state.bytes;
  const isBusy = settings.thresholdBytesPerSec >= 0 && bytesPerSec >= settings.thresholdBytesPerSec;
  const isCalm = bytesPerSec < settings.thresholdBytesPerSec * calmPart;
  const next = {
    bytes: now.bytes,
    busyTicks: isBusy ? state.busyTicks + 1 : 0,
    calmTicks: isCalm ? state.calmTicks + 1 : 0,
  };
  if (now.connections > 1) return [next, next.calmTicks >= calmLimitTicks ? 'narrow' : null];
  const isWanted =
    planConnections(settings, now.limit) > 1 &&
    next.busyTicks >= Math.max(1, settings.breachedSec) &&
    now.nowTick >= now.searchFromTick;
  return [next, isWanted ? 'widen' : null];
}

/** How many connections one session may have: the smaller of what the mount target and the administrator allow. */
export function planConnections(settings: ScaleSettings, limit: number): number {
  return Math.max(1, Math.min(settings.maxConnections, limit));
}
