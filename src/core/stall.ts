/** One tick of a tunnel worker, in milliseconds. */
export const tickMs = 1_000;

/** What a connection showed at its last tick. */
export interface StallState {
  receivedBytes: number;
  takenBytes: number;
  backlogBytes: number;
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
  /** We do not read from it at the moment: its silence is our doing. */
  paused: boolean;
}

export const initialStallState: StallState = {
  receivedBytes: 0,
  takenBytes: 0,
  backlogBytes: 0,
  silentTicks: 0,
};

/**
 * Says at each tick whether a connection has stalled: an answer or the acceptance of bytes is owed, and nothing
 * has moved for more than `limitTicks` ticks.
 *
 * What the kernel takes counts as movement only when it had refused some before: into an empty buffer it also takes
 * what never arrives. Ticks are counted, not time: while this process is stopped nobody falls silent.
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
    (state.backlogBytes > 0 && now.takenBytes !== state.takenBytes);
  const silentTicks = !owed || moved || now.paused ? 0 : state.silentTicks + 1;
  const { receivedBytes, takenBytes, backlogBytes } = now;
  return [{ receivedBytes, takenBytes, backlogBytes, silentTicks }, silentTicks > limitTicks];
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
