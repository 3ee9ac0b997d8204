import type { Server, Socket } from 'node:net';
import type { Details } from './errors.ts';
import type { EventName } from './events.ts';

/** The edges the agent joins. `agent/wire.ts` builds the real ones; tests bring their own. */

export interface Clock {
  /** Epoch milliseconds, UTC: for certificates and people. Jumps when the administrator sets the clock. */
  nowMs(): number;
  /** Monotonic milliseconds: for every delay and deadline. */
  monoMs(): number;
  /** Calls `run` once after `delayMs`; never keeps the process alive by itself. */
  schedule(delayMs: number, run: () => void): { cancel(): void };
}

export const logLevels = ['error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof logLevels)[number];

/** Writes one line: an event of core/events.ts and fields that never hold a secret. */
export type Log = (level: LogLevel, event: EventName, fields?: Details) => void;

/** A child process of ours with an IPC channel: a tunnel worker or an identity process. */
export interface Child<Sent, Received> {
  readonly pid: number;
  /** Sends a message, with a copy of an accepted or listening socket if given; closing one's own is left to the caller. */
  send(message: Sent, socket?: Socket | Server): void;
  onMessage(listener: (message: Received) => void): void;
  /** Called once, when the process has ended or its channel is gone. */
  onExit(listener: (how: string) => void): void;
  kill(signal: 'SIGTERM' | 'SIGKILL'): void;
}

/** Resolves a host name. Errors: `dns.not-found`, `dns.failed`. */
export type ResolveName = (name: string) => Promise<string[]>;

/** Follows CNAME records; the canonical name, or the name itself when there are none. Errors: none. */
export type ResolveCanonicalName = (name: string) => Promise<string>;
