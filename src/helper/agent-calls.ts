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

/** Before the next agent is looked for, in milliseconds: the one that ends has gone by then, most often. */
const startPauseMs = 50;

/**
 * Listens for the agent after this one: if ours dies while we mount, it is started, finds the mount in its records, and calls.
 *
 * Errors: none; null beside an agent that would not call.
 */
export async function listenForAgents(agent: AgentConnection, caller: Caller): Promise<AgentCalls | null> {
  let called: AgentConnection | null = null;
  /** The connection to an agent that has not called yet. */
  let waiting: AgentConnection | null = null;
  let isOver = false;
  let wake = () => {};

  /** With systemd it starts by itself; elsewhere whoever needs it starts it. */
  async function startAnother(): Promise<void> {
    await caller.pause(startPauseMs);
    if (isOver || caller.interruption.aborted || latest() !== null) return;
    // Somebody else may start one: what counts is that it calls.
    const found = await openAgent(caller).catch(() => null);
    if (found === null || isOver || latest() !== null) return found?.close();
    // It may be the old one, which accepts until it is quite dead.
    watch(found);
    waiting = found;
  }

  function watch(connection: AgentConnection): void {
    connection.ended.addEventListener('abort', () => void startAnother());
    if (connection.ended.aborted) void startAnother();
  }

  const socket = await openCallerSocket(agentDirectory(caller), caller.random, (incoming) => {
    called = openConversation(incoming);
    waiting?.close();
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
      waiting?.close();
      called?.close();
    },
  };
}
