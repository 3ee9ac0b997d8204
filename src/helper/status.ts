import { type AgentStatus, protocolVersion } from '../core/control-protocol.ts';
import type { Caller } from './caller.ts';
import type { AgentConnection } from './control-client.ts';
import { converse, receiveAnswer } from './conversation.ts';
import { findAgent, findOtherAgents } from './start-agent.ts';

/** The status of the agent of the caller's network namespace, and of those of other ones. */
export interface Statuses {
  /** Null when none runs. */
  own: AgentStatus | null;
  others: AgentStatus[];
}

/** The status of every agent that runs. Starts none. Errors: `agent.unreachable`, `agent.protocol`. */
export async function readStatuses(caller: Caller): Promise<Statuses> {
  const read = (agent: AgentConnection) =>
    converse(agent, caller, async () => {
      agent.send({ kind: 'status', version: protocolVersion });
      return (await receiveAnswer(agent, 'status', caller.limits.closeMs)).status;
    });
  const own = await findAgent(caller);
  const others = await findOtherAgents(caller);
  return { own: own === null ? null : await read(own), others: await Promise.all(others.map(read)) };
}
