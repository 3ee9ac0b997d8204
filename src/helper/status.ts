import { type AgentStatus, protocolVersion } from '../core/control-protocol.ts';
import type { Caller } from './caller.ts';
import { converse, receiveAnswer } from './conversation.ts';
import { findAgent } from './start-agent.ts';

/** The running agent's status; null when none runs. Starts none. Errors: `agent.unreachable`, `agent.protocol`. */
export async function readStatus(caller: Caller): Promise<AgentStatus | null> {
  const agent = await findAgent(caller);
  if (agent === null) return null;
  return converse(agent, caller, async () => {
    agent.send({ kind: 'status', version: protocolVersion });
    return (await receiveAnswer(agent, 'status', caller.limits.closeMs)).status;
  });
}
