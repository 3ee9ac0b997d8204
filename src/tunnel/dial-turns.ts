import { AgentError } from '../core/errors.ts';
import { startPatience } from '../core/patience.ts';
import { createTurns, type Turn, type Turns } from '../core/turns.ts';
import type { Endpoint } from '../core/worker-protocol.ts';
import { renderEndpoint, schedule } from './dial.ts';

/** How many sessions may greet one mount target at once; measured in docs/decisions/0029. */
const greetingAtOnce = 16;
/** An address that has not even accepted the connection by then is waited for, which costs nobody anything. */
const connectMs = 50;
/** From there on. A handshake that takes longer keeps going, and the next one begins. */
const handshakeMs = 1_000;
/** A worker that is busy with handshakes hears late of those that are done. */
const patient = { schedule: (delayMs: number, run: () => void) => startPatience(schedule, delayMs, run) };

/**
 * Whose turn it is to connect to a mount target, when many sessions have lost their connections together.
 *
 * Each address has turns of its own: one that is dead delays nobody who dials another. The tunnels that wait for one
 * address are served in rotation.
 */
export class DialTurns {
  /** Never more than the mount targets that were ever dialled. */
  readonly #byAddress = new Map<string, Turns>();

  /** Calls `dial` when it is its turn, at once while few are dialling. Errors: those of `dial`; `interrupted`. */
  async run<T>(
    endpoint: Endpoint | undefined,
    tunnelId: string,
    signal: AbortSignal,
    dial: (connected: () => void) => Promise<T>,
  ): Promise<T> {
    const turn = await this.#wait(endpoint === undefined ? '' : renderEndpoint(endpoint), tunnelId, signal);
    try {
      return await dial(() => turn.extend(handshakeMs));
    } finally {
      turn.leave();
    }
  }

  #wait(address: string, tunnelId: string, signal: AbortSignal): Promise<Turn> {
    const turns = this.#byAddress.get(address) ?? createTurns(patient, greetingAtOnce, connectMs);
    this.#byAddress.set(address, turns);
    return new Promise((resolve, reject) => {
      const abandon = (): void => {
        turn.leave();
        reject(new AgentError('interrupted', 'the connection is not wanted any more'));
      };
      signal.addEventListener('abort', abandon);
      const turn = turns.take(tunnelId, () => {
        signal.removeEventListener('abort', abandon);
        // It may be its turn before there is one to speak of.
        queueMicrotask(() => resolve(turn));
      });
      if (signal.aborted) abandon();
    });
  }
}
