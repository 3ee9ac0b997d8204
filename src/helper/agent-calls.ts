import { openCallerSocket } from '../host/caller-socket.ts';
import { agentDirectory, type Caller } from './caller.ts';
import { type AgentConnection, openConversation } from './control-client.ts';
import { openAgent } from './start-agent.ts';

/** Calls of agents that have taken a mount over while it is being made. */
export interface AgentCalls {
  /** Name of the socket on which they call. */
  readonly name: string;
  /** That socket; mount.nfs4 holds it too: as long as it runs, nobody else gets the port of the mount. */
  readonly descriptors: readonly number[];
  /** The agent that called last, if the conversation goes on. */
  latest(): AgentConnection | null;
  /** The same, waited for; null when none has called in time. */
  next(timeoutMs: number): Promise<AgentConnection | null>;
  close(): void;
}

/**
 * Listens for the agent after this one: if ours dies while we mount, it is started, finds the mount in its records, and calls.
 *
 * Errors: none; null beside an agent that would not call.
 */
export async function listenForAgents(agent: AgentConnection, caller: Caller): Promise<AgentCalls | null> {
  let called: AgentConnection | null = null;
  let isOver = false;
  let wake = () => {};

  /** With systemd it starts by itself; elsewhere whoever needs it starts it. */
  function startAnother(): void {
    if (isOver || caller.interruption.aborted) return;
    openAgent(caller).then(
      (started) => started.close(),
      // Somebody else may start one: what counts is that it calls.
      () => {},
    );
  }

  function watch(connection: AgentConnection): void {
    connection.ended.addEventListener('abort', startAnother);
    if (connection.ended.aborted) startAnother();
  }

  const socket = await openCallerSocket(agentDirectory(caller), caller.random, (incoming) => {
    called = openConversation(incoming);
    watch(called);
    wake();
  });
  if (socket === null) return null;
  watch(agent);
  const latest = () => (called === null || called.ended.aborted ? null : called);
  return {
    name: socket.name,
    descriptors: [socket.fd],
    latest,
    async next(timeoutMs) {
      const timeout = AbortSignal.timeout(timeoutMs);
      timeout.addEventListener('abort', () => wake());
      while (latest() === null && !timeout.aborted) await new Promise<void>((resolve) => (wake = resolve));
      return latest();
    },
    close() {
      isOver = true;
      socket.close();
      called?.close();
    },
  };
}
