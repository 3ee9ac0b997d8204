/** One tick of a tunnel worker, in milliseconds. */
export const tickMs = 1_000;

/** What a connection showed at its last tick. */
export interface StallState {
  receivedBytes: number;
  takenBytes: number;
  backlogBytes: number;
  /** When the kernel was last asked, since anything moved; null = it was not. */
  unacknowledgedBytes: number | null;
  /** Ticks in a row in which something was owed and nothing moved. */
  silentTicks: number;
}

/** One connection as it is now. */
export interface StallObservation {
  /** The mount target owes the answer to a request that was sent whole. */
  owesAnswer: boolean;
  /** Bytes that came from the mount target so far. */
  receivedBytes: number;
  /** Bytes that the kernel has taken for the mount target so far. */
  takenBytes: number;
  /** Bytes that wait for the kernel to take them: its own buffer is full. */
  backlogBytes: number;
  /** Of what the kernel has taken, what the mount target has not acknowledged; null = unknown. */
  unacknowledgedBytes: number | null;
  /** We do not read from it at the moment: its silence is our doing. */
  paused: boolean;
}

export const initialStallState: StallState = {
  receivedBytes: 0,
  takenBytes: 0,
  backlogBytes: 0,
  unacknowledgedBytes: null,
  silentTicks: 0,
};

/**
 * Says at each tick whether a connection has stalled: an answer or the acceptance of bytes is owed, and nothing
 * has moved for more than `limitTicks` ticks.
 *
 * What the kernel takes counts as movement only when it had refused some before: into an empty buffer it also takes
 * what never arrives. Where the kernel's own buffer is large, it takes none for minutes from a mount target that is only slow:
 * then what that acknowledges counts, and it is seen by what is left becoming less. Ticks are counted, not time: while this process is stopped nobody falls silent.
 *
 * Units: ticks of the caller; at the first tick that finds a debt it may be almost one tick younger. Errors: none.
 * Source: our choice; the kernel's own retransmission limit is 15 minutes.
 */
export function decideStall(
  state: StallState,
  now: StallObservation,
  limitTicks: number,
): [StallState, boolean] {
  const owed = now.owesAnswer || now.backlogBytes > 0;
  const moved =
    now.receivedBytes !== state.receivedBytes ||
    (state.backlogBytes > 0 && now.takenBytes !== state.takenBytes) ||
    (state.unacknowledgedBytes ?? 0) > (now.unacknowledgedBytes ?? Number.POSITIVE_INFINITY);
  const silentTicks = !owed || moved || now.paused ? 0 : state.silentTicks + 1;
  const { receivedBytes, takenBytes, backlogBytes } = now;
  const unacknowledgedBytes = now.unacknowledgedBytes ?? (silentTicks > 0 ? state.unacknowledgedBytes : null);
  return [
    { receivedBytes, takenBytes, backlogBytes, unacknowledgedBytes, silentTicks },
    silentTicks > limitTicks,
  ];
}

/**
 * Whether it is time to ask the kernel what is not acknowledged: once early, to have something to compare with, and from half
 * of the limit on. A mount target's kernel acknowledges in lumps, 320 kB at once where measured, which from a slow one are seconds apart.
 */
export function isSuspicious({ silentTicks }: StallState, limitTicks: number): boolean {
  return silentTicks === 1 || silentTicks >= Math.floor(limitTicks / 2);
}

/** Doubling stops here: a mount target that is only slow gets eight times the limit in the end. */
const mostDoublings = 3;

/**
 * How long a connection may be silent when `stallsInARow` connections before it have stalled without one answer:
 * a mount target that needs longer for one request than the limit must get there in the end.
 */
export function planStallLimitTicks(limitTicks: number, stallsInARow: number): number {
  return limitTicks * 2 ** Math.min(stallsInARow, mostDoublings);
}

/** The endpoints with those that went silent at the end; each group keeps its order. */
export function orderEndpoints<E>(endpoints: readonly E[], isSilent: (endpoint: E) => boolean): E[] {
  return [...endpoints.filter((endpoint) => !isSilent(endpoint)), ...endpoints.filter(isSilent)];
}
