import type { AgentMessage } from '../core/control-protocol.ts';
import { AgentError, fromErrorMessage } from '../core/errors.ts';
import type { Caller } from './caller.ts';
import type { AgentConnection } from './control-client.ts';
import type { Progress } from './progress.ts';

/**
 * Waits for the agent's answer of one kind; its progress is shown meanwhile.
 *
 * Units: `timeoutMs` of silence. Errors: the one the agent reports; `agent.unreachable`; `agent.protocol` for
 * another kind of answer.
 */
export async function receiveAnswer<K extends AgentMessage['kind']>(
  agent: AgentConnection,
  kind: K,
  timeoutMs: number | null,
  progress?: Progress,
): Promise<Extract<AgentMessage, { kind: K }>> {
  for (;;) {
    const message = await agent.receive(timeoutMs);
    if (message.kind === kind) return message as Extract<AgentMessage, { kind: K }>;
    if (message.kind === 'failed') throw fromErrorMessage(message.error);
    if (message.kind !== 'progress')
      throw new AgentError('agent.protocol', `the agent answered "${message.kind}", not "${kind}"`);
    progress?.show(message.phase, message.elapsedMs);
  }
}

/**
 * Holds a conversation and ends it, also when the caller is interrupted.
 *
 * Errors: whatever `talk` throws.
 */
export async function converse<T>(
  agent: AgentConnection,
  caller: Caller,
  talk: () => Promise<T>,
): Promise<T> {
  const hangUp = () => agent.close();
  caller.interruption.addEventListener('abort', hangUp, { once: true });
  try {
    throwIfInterrupted(caller);
    return await talk();
  } catch (thrown) {
    throwIfInterrupted(caller);
    throw thrown;
  } finally {
    caller.interruption.removeEventListener('abort', hangUp);
    agent.close();
  }
}

/** Errors: `interrupted` once a signal has come. */
export function throwIfInterrupted(caller: Caller): void {
  if (caller.interruption.aborted)
    throw new AgentError('interrupted', 'interrupted by a signal; everything begun was undone');
}
