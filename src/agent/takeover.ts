import type { Server } from 'node:net';
import { AgentError } from '../core/errors.ts';
import type { Child, Clock, Log } from '../core/ports.ts';
import type { Control } from './control.ts';
import type { Mounts } from './mounts.ts';
import type { InheritedTunnel } from './tunnel.ts';

/**
 * How an agent hands everything over to its successor, the same program or another version of it.
 *
 * The old agent starts the new one as its child and sends it the listening sockets, the certificates and the
 * key over IPC: a listener is never closed, a connection that comes meanwhile waits in its backlog. The old
 * workers go on with the connections they have; the successor finds them on its own.
 */
export type ToSuccessor =
  /** Comes with the control socket; clients that connect from now on wait for the successor. */
  | { kind: 'control'; activated: boolean }
  | {
      kind: 'inherit';
      version: number;
      privateKeyPem: string;
      startedAtMs: number;
      tunnels: InheritedTunnel[];
    }
  /** Comes with the listening socket of the tunnel of this number in `inherit`. */
  | { kind: 'listener'; index: number };

export type FromSuccessor =
  /** The successor listens to us, and takes this version of `inherit` and the one before; version 1 did not say so. */
  { kind: 'ready'; version?: number } | { kind: 'serving'; pid: number };

export type Successor = Child<ToSuccessor, FromSuccessor>;

/** Raised when `inherit` changes its meaning; an agent gives and takes its own and the one before. */
export const takeoverVersion = 2;

/** How long mounts that are under way may take before they are left behind, and how long a successor may take. */
const drainMs = 20_000;
const servingMs = 15_000;
/** How long the connections that were just accepted may take to be given to a worker. */
const releaseMs = 2_000;

export interface GiverPorts {
  clock: Clock;
  log: Log;
  control: Control;
  /** Whether systemd opened the control socket. */
  activated: boolean;
  mounts: Mounts;
  privateKeyPem(): Promise<string>;
  startedAtMs: number;
  startSuccessor(): Successor;
}

/**
 * Hands everything over; afterwards this process has nothing left to do but to end.
 *
 * Errors: `agent.start-failed` when the successor ended or did not serve in time: this agent then goes on, and
 * only its control socket is closed if the successor already had it.
 */
export async function giveTo(ports: GiverPorts): Promise<number> {
  const { clock, log, control, mounts } = ports;
  const successor = ports.startSuccessor();
  log('info', 'takeover.started', { successor: successor.pid });
  const serving = new Promise<number>((resolve, reject) => {
    const fail = (why: string) =>
      reject(new AgentError('agent.start-failed', `the successor ${successor.pid} ${why}`));
    const deadline = clock.schedule(drainMs + servingMs, () => {
      successor.kill('SIGKILL');
      fail(`did not serve within ${(drainMs + servingMs) / 1_000} s`);
    });
    successor.onMessage((message) => {
      if (message.kind === 'ready') {
        const version = decideTakeoverVersion(message.version ?? 1);
        if (version === null)
          fail(`takes version ${message.version ?? 1} only, and this agent gives ${takeoverVersion}`);
        else give(version).catch(reject);
        return;
      }
      deadline.cancel();
      resolve(message.pid);
    });
    successor.onExit((how) => fail(`ended: ${how}`));
  });
  const pid = await serving;
  // Connections that this agent still accepted itself are a worker's before it ends.
  await Promise.race([
    Promise.all(mounts.list().map((tunnel) => tunnel.release())),
    new Promise<void>((resolve) => clock.schedule(releaseMs, resolve)),
  ]);
  log('info', 'takeover.done', { successor: pid });
  return pid;

  async function give(version: number): Promise<void> {
    successor.send({ kind: 'control', activated: ports.activated }, control.server);
    await control.drain(drainMs);
    // What is still being mounted goes along: the successor sees whether the kernel has it.
    const tunnels = mounts.list().filter(({ phase }) => phase === 'mounted' || phase === 'mounting');
    successor.send({
      kind: 'inherit',
      // What version 2 has more, version 1 does not read.
      version,
      privateKeyPem: await ports.privateKeyPem(),
      startedAtMs: ports.startedAtMs,
      tunnels: tunnels.map((tunnel) => tunnel.bequeath()),
    });
    for (const [index, tunnel] of tunnels.entries())
      successor.send({ kind: 'listener', index }, tunnel.listener);
  }
}

/** Which version an agent gives to a successor that takes `theirs` and the one before; null = there is none. */
function decideTakeoverVersion(theirs: number): number | null {
  const version = Math.min(takeoverVersion, theirs);
  return version >= takeoverVersion - 1 && version >= theirs - 1 ? version : null;
}

/**
 * Waits for the inheritance; the caller has to tell the old agent that it is `ready`.
 *
 * `onListener` must take the listening socket over in the turn in which it is called: from the next turn on
 * connections come in.
 *
 * Errors: `agent.protocol` when the old agent speaks a version we do not know; whatever `onListener` throws.
 */
export function receiveInheritance(
  parent: NodeJS.Process,
  onControl: (control: Server, activated: boolean) => void,
  onInherit: (message: Extract<ToSuccessor, { kind: 'inherit' }>) => void,
  onListener: (tunnel: InheritedTunnel, listener: Server) => Promise<void>,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const taken: Promise<void>[] = [];
    let tunnels: InheritedTunnel[] = [];
    const lost = () =>
      reject(new AgentError('agent.start-failed', 'the old agent ended before it had handed over'));
    parent.once('disconnect', lost);
    parent.on('message', (message: ToSuccessor, handle: unknown) => {
      switch (message.kind) {
        case 'control':
          onControl(handle as Server, message.activated);
          return;
        case 'inherit':
          if (message.version > takeoverVersion || message.version < takeoverVersion - 1) {
            reject(
              new AgentError(
                'agent.protocol',
                `the old agent hands over in version ${message.version}, this one knows ${takeoverVersion}`,
              ),
            );
            return;
          }
          tunnels = message.tunnels;
          onInherit(message);
          break;
        case 'listener':
          taken.push(onListener(tunnels[message.index]!, handle as Server));
          break;
      }
      if (taken.length < tunnels.length) return;
      parent.off('disconnect', lost);
      Promise.all(taken).then(() => resolve(), reject);
    });
  });
}
