/**
 * Where the connections are that an agent has given to its worker, by session. What waits for a worker is not among them.
 *
 * `handing`: on its way; the agent keeps its copy of the socket, and the worker may not read. `carried`: the worker's alone.
 */
export type Handover = ReadonlyMap<number, { kind: 'handing' | 'carried'; worker: number }>;

export type HandoverEvent =
  | { kind: 'handed'; sessionId: number; worker: number }
  /** The worker has the socket. */
  | { kind: 'taken'; sessionId: number; worker: number }
  /** The worker has ended the session, or never wanted it. */
  | { kind: 'closed'; sessionId: number; worker: number }
  | { kind: 'worker-lost'; worker: number };

export type HandoverAction =
  /** The agent closes its copy of the socket. */
  | { kind: 'let-go'; sessionId: number }
  /** The worker may read from now on: nobody else has the socket. */
  | { kind: 'go'; sessionId: number }
  /** Not a byte was read: the next worker gets it. */
  | { kind: 'return'; sessionId: number }
  | { kind: 'ended'; sessionId: number };

export const nothingHanded: Handover = new Map();

/**
 * One step of giving connections to workers: never are there two that read from one, and none is lost as long as it can be kept.
 *
 * Errors: none; what a worker says about a session that is not its own changes nothing.
 */
export function decideHandover(state: Handover, event: HandoverEvent): [Handover, HandoverAction[]] {
  if (event.kind === 'worker-lost') {
    const ours = [...state].filter(([, { worker }]) => worker === event.worker);
    const next = new Map([...state].filter(([, { worker }]) => worker !== event.worker));
    return [
      next,
      ours.map(([sessionId, { kind }]) => ({ kind: kind === 'handing' ? 'return' : 'ended', sessionId })),
    ];
  }
  const { sessionId, worker } = event;
  const place = state.get(sessionId);
  if (event.kind === 'handed') {
    if (place !== undefined) return [state, []];
    return [new Map(state).set(sessionId, { kind: 'handing', worker }), []];
  }
  if (place?.worker !== worker) return [state, []];
  if (event.kind === 'taken') {
    if (place.kind === 'carried') return [state, []];
    const next = new Map(state).set(sessionId, { kind: 'carried', worker });
    // In this order: from `go` on the worker reads.
    return [
      next,
      [
        { kind: 'let-go', sessionId },
        { kind: 'go', sessionId },
      ],
    ];
  }
  const next = new Map(state);
  next.delete(sessionId);
  const ended: HandoverAction = { kind: 'ended', sessionId };
  return [next, place.kind === 'handing' ? [{ kind: 'let-go', sessionId }, ended] : [ended]];
}
