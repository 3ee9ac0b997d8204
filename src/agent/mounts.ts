import type { Server, Socket } from 'node:net';
import type { AgentStatus, MountRetry } from '../core/control-protocol.ts';
import { AgentError, asAgentError } from '../core/errors.ts';
import type { EventName } from '../core/events.ts';
import { decideMount, type MountEvent, type MountSight } from '../core/mount-life.ts';
import { formatMountState, isSameServer, type MountState } from '../core/mount-state.ts';
import { type MountEntry, type NfsIndex, parseMountInfo } from '../core/mountinfo.ts';
import { forgetSecrets } from '../core/secret-environment.ts';
import { createDirect } from './direct.ts';
import { type MountRequest, type PlanPorts, planMount, planRecordedMount, readOnce } from './plan.ts';
import { createPresence, isMountedIn } from './presence.ts';
import { createQuestions, type Questions } from './questions.ts';
import { explainRefusal } from './refusal.ts';
import { createRestorer, type RestorerPorts } from './restore.ts';
import {
  createTunnel,
  type InheritedTunnel,
  inheritTunnel,
  type Mount,
  type Tunnel,
  type TunnelPorts,
} from './tunnel.ts';

export interface MountsPorts
  extends Omit<TunnelPorts, 'onQuiet' | 'isReserved'>,
    Omit<PlanPorts, 'identities'>,
    Pick<RestorerPorts, 'stateFiles'> {
  readMountTables(): AsyncIterable<string>;
  callers: {
    /** Calls whoever makes a mount; null when neither that process nor its mount.nfs4 is there any more. */
    call(callerSocket: string): Promise<Socket | null>;
    /** Nobody needs to be called any more. */
    remove(callerSocket: string): Promise<void>;
  };
}

/** A mount that is being made, and the connection to whoever makes it. */
export interface BeingMade {
  mount: Mount;
  caller: Socket;
}

/** All mounts of this agent, and the tunnels that serve none. */
export interface Mounts extends Questions {
  open(
    request: MountRequest & { callerSocket: string | null },
    signal: AbortSignal,
    report: (phase: string) => void,
  ): Promise<{ mount: Mount; retry: MountRetry; readAhead: boolean }>;
  /** mount.nfs4 succeeded: the mount stays. */
  confirm(mount: Mount): Promise<void>;
  /** mount.nfs4 failed: everything is undone, unless the kernel has mounted in spite of it. */
  undo(mount: Mount): Promise<void>;
  /** Calls the caller of a mount, who hung up before it was made; null when there is none any more. */
  callAgain(mount: Mount): Promise<Socket | null>;
  /** The caller died: everything is undone, unless the kernel has mounted or its mount.nfs4 is still at work. */
  abandon(mount: Mount): Promise<void>;
  /** What to tell a user whose mount.nfs4 failed. */
  explain(mount: Mount, status: number, stderr: string): Promise<AgentError>;
  /** The caller has unmounted a directory. False when nothing of ours served it. */
  unmounted(mountPoint: string): Promise<boolean>;
  /** Looks for mounts that are gone; called when a tunnel fell silent, and now and then. */
  sweep(): Promise<void>;
  /** Compares with the kernel's mount tables before a question is answered: what was seen there and is gone, goes. */
  refresh(): Promise<void>;
  /** Takes up the mounts of an earlier agent that are recorded and not here yet; gives those that are being made. */
  restore(): Promise<BeingMade[]>;
  /** Goes on with a tunnel of the agent before this one. */
  inherit(inherited: InheritedTunnel, listener: Server): Promise<void>;
  /** The tunnels; a mount without one needs nothing while it lasts. */
  list(): Tunnel[];
  status(): AgentStatus['mounts'];
}

export function createMounts(ports: MountsPorts): Mounts {
  const { log } = ports;
  const served = new Map<string, Mount>();
  /** Mounts that are served no more, until their records are gone. */
  const endings = new Map<string, Promise<void>>();
  /** Callers of recorded mounts, until the mount is served. */
  const answered = new Map<string, Socket>();
  let beingMade: BeingMade[] = [];
  const restorer = createRestorer({
    log,
    stateFiles: ports.stateFiles,
    readTables,
    isServed: (mountId) => served.has(mountId),
    isServedPort: (port) => [...served.values()].some((mount) => mount.port === port),
    async findCaller(state) {
      const caller = await call(state.callerSocket);
      if (caller !== null) answered.set(state.mountId, caller);
      return caller !== null;
    },
    prepare() {
      const once = readOnce(ports);
      return (state, phase) => serveRecorded(once, state, phase);
    },
  });
  const tunnelPorts: TunnelPorts = {
    ...ports,
    onQuiet: () => void mounts.sweep(),
    isReserved: (port) => restorer.isReserved(port),
  };

  /** Aborted when the caller of a mount has left. */
  const callerSignals = new WeakMap<Mount, AbortSignal>();
  /** Called at the next step in the life of any mount. */
  const awaitingStep: (() => void)[] = [];
  const presence = createPresence(ports.readMountTables);
  /** Monotonic milliseconds at which mount.nfs4 had succeeded. */
  const mountedAtMonoMs = new WeakMap<Mount, number>();
  let directCheck: { cancel(): void } | null = null;

  const isUnderWay = ({ phase }: Mount) => phase === 'opening' || phase === 'mounting';
  const isTunnel = (mount: Mount): mount is Tunnel => mount.port !== null;
  const findServed = (mountPoint: string) =>
    [...served.values()].findLast(({ plan, phase }) => plan.mountPoint === mountPoint && phase === 'mounted');

  /** Errors: `runtime-dir.unusable` when the record of a mount that closes cannot be removed; it is closed all the same. */
  async function step(mount: Mount, event: MountEvent): Promise<void> {
    const wasUnderWay = isUnderWay(mount);
    mount.phase = decideMount(mount.phase, event);
    for (const wake of awaitingStep.splice(0)) wake();
    const { callerSocket } = mount.plan;
    if (callerSocket != null && wasUnderWay && !isUnderWay(mount)) await ports.callers.remove(callerSocket);
    // A look that took its time may end when another mount, on the same directory and port, has the same name.
    if (mount.phase !== 'closing' || served.get(mount.id) !== mount) return;
    served.delete(mount.id);
    const ending = end(mount);
    endings.set(mount.id, ending);
    await ending.finally(() => {
      if (endings.get(mount.id) === ending) endings.delete(mount.id);
    });
  }

  async function end(mount: Mount): Promise<void> {
    try {
      // While its port is still ours: the next one there has the same name, and would lose its record.
      await ports.stateFiles.remove(mount.id);
    } finally {
      await mount.close();
    }
  }

  /** Null when there is nobody to call; then nobody will be called any more. */
  async function call(callerSocket: string | null | undefined): Promise<Socket | null> {
    if (callerSocket == null) return null;
    const caller = await ports.callers.call(callerSocket);
    if (caller === null) await ports.callers.remove(callerSocket);
    return caller;
  }

  /**
   * A record of an earlier mount there goes, if that is gone; one whose caller has left is waited for until it is undone.
   *
   * Errors: `mountpoint.busy` while another is under way.
   */
  async function claim(mountPoint: string): Promise<void> {
    await mounts.unmounted(mountPoint);
    const underWay = [...served.values()].find(
      (mount) => mount.plan.mountPoint === mountPoint && isUnderWay(mount),
    );
    if (underWay === undefined) return;
    if (callerSignals.get(underWay)?.aborted) {
      await new Promise<void>((wake) => awaitingStep.push(wake));
      return claim(mountPoint);
    }
    throw new AgentError('mountpoint.busy', `another command is mounting on ${mountPoint} at this moment`, {
      mountPoint,
      hint: 'Wait for it, and try again.',
    });
  }

  /** Written before the kernel mounts: a full disk must stop the mount, and a dead agent must leave a trace of it. */
  async function record(mount: Mount, mountPoint: string): Promise<void> {
    const { plan } = mount;
    const state: MountState = {
      mountId: mount.id,
      fileSystemId: plan.fileSystemId,
      accessPointId: plan.spec.accessPoint,
      path: plan.spec.path,
      mountPoint,
      port: mount.port,
      dnsName: plan.dnsName,
      region: plan.region,
      spec: plan.spec,
      environment: forgetSecrets(plan.environment),
      createdAtMs: ports.clock.nowMs(),
      callerSocket: plan.callerSocket ?? null,
    };
    await ports.stateFiles.write(mount.id, formatMountState(state));
    await step(mount, { kind: 'recorded' });
  }

  function logFailure(event: EventName, error: unknown): void {
    log('error', event, { error: asAgentError(error).message });
  }

  function noteKept(mount: Mount): void {
    if (mount.phase === 'mounted')
      log('warn', 'mount.kept', { tunnel: mount.id, mountPoint: mount.plan.mountPoint, port: mount.port });
  }

  async function readTables(): Promise<MountEntry[][]> {
    const tables: MountEntry[][] = [];
    for await (const text of ports.readMountTables()) tables.push(parseMountInfo(text));
    return tables;
  }

  /** Whether the kernel has the mount; null when its tables cannot be read. */
  async function look(mount: Mount): Promise<MountSight['inTables']> {
    return presence.look([mount]).then(
      () => presence.of(mount) === 'there',
      () => null,
    );
  }

  /**
   * Whether the kernel may come back to a tunnel whose own mount is gone: it talks to one server through one
   * connection, the first one, whatever port later mounts of that server were given (RFC 8881, 2.10.5).
   */
  function mayCarryAnother(mount: Mount, tables: NfsIndex[]): boolean {
    if (!isTunnel(mount)) return false;
    const hungUpAtMs = mount.hungUpAtMs();
    if (hungUpAtMs !== null && ports.clock.nowMs() - hungUpAtMs >= reconnectMs) return false;
    return [...served.values()].some(
      (other) =>
        other !== mount &&
        isSameServer(other.plan, mount.plan) &&
        tables.some((table) => isMountedIn(table, other)),
    );
  }

  /** Closes those that are in no mount table and that the kernel does not use; the `unseen` ones too if told so. */
  async function closeIfGone(candidates: Mount[], unseen: 'go' | 'stay' = 'go'): Promise<void> {
    const tables = await presence.look(candidates);
    for (const mount of candidates) {
      if (presence.of(mount) === 'unseen' && unseen === 'stay') continue;
      // Another look may have closed it meanwhile, and has told of it.
      const isNews = mount.phase !== 'closing';
      const sight: MountSight = {
        inTables: presence.of(mount) === 'there',
        connections: mount.openSessions(),
        mayCarryAnother: mayCarryAnother(mount, tables),
      };
      // One whose record cannot be removed does not keep the others.
      await step(mount, { kind: 'looked', sight }).catch((error: unknown) =>
        logFailure('undo.failed', error),
      );
      if (isNews && mount.phase === 'closing')
        log('info', 'mount.gone', { tunnel: mount.id, mountPoint: mount.plan.mountPoint });
    }
  }

  async function tryCloseIfGone(candidates: Mount[], unseen: 'go' | 'stay'): Promise<void> {
    await closeIfGone(candidates, unseen).catch((error: unknown) => logFailure('sweep.failed', error));
  }

  /** Just mounted, in no table that we can read, and the kernel has not hung up: it may be about to come back. */
  function isSettling(mount: Mount): boolean {
    const sinceMonoMs = mountedAtMonoMs.get(mount);
    if (!isTunnel(mount) || sinceMonoMs === undefined || presence.of(mount) !== 'unseen') return false;
    return mount.hungUpAtMs() === null && ports.clock.monoMs() - sinceMonoMs < reconnectMs;
  }

  const listMounted = () => [...served.values()].filter(({ phase }) => phase === 'mounted');

  /** No connection of ours ends with a mount without a tunnel: while there are such mounts, the tables tell. */
  function watchDirect(): void {
    const direct = () => listMounted().filter((mount) => !isTunnel(mount));
    if (directCheck !== null || direct().length === 0) return;
    directCheck = ports.clock.schedule(directCheckMs, () => {
      void tryCloseIfGone(direct(), 'stay').then(() => {
        directCheck = null;
        watchDirect();
      });
    });
  }

  async function serveRecorded(
    reading: PlanPorts,
    state: MountState,
    phase: 'mounting' | 'mounted',
  ): Promise<void> {
    const plan = await planRecordedMount(reading, state);
    const mount = plan.spec.tls ? await createTunnel(tunnelPorts, plan) : createDirect(ports, plan);
    mount.phase = phase;
    served.set(mount.id, mount);
    const caller = answered.get(state.mountId);
    if (caller !== undefined && answered.delete(state.mountId)) beingMade.push({ mount, caller });
    if (isTunnel(mount)) mount.establishInBackground();
    else watchDirect();
  }

  const mounts: Mounts = {
    ...createQuestions(ports, async (mountPoint) => {
      await mounts.refresh();
      return findServed(mountPoint) ?? null;
    }),
    async open(request, signal, report) {
      const { plan, config } = await planMount(ports, request);
      if (request.mountPoint !== null) await claim(request.mountPoint);
      const mount = plan.spec.tls ? await createTunnel(tunnelPorts, plan) : createDirect(ports, plan);
      await endings.get(mount.id)?.catch(() => {});
      served.set(mount.id, mount);
      callerSignals.set(mount, signal);
      try {
        await mount.establish(signal, report);
        if (request.mountPoint === null) await step(mount, { kind: 'kept' });
        else await record(mount, request.mountPoint);
      } catch (error) {
        // Why it failed is more than that its record, if any, could not be removed either.
        await step(mount, { kind: 'failed' }).catch((further: unknown) => logFailure('undo.failed', further));
        throw error;
      }
      const retry = {
        attempts: config.retryNfsMount ? config.retryNfsMountCount : 1,
        attemptTimeoutMs: config.retryNfsMountTimeoutMs,
      };
      return { mount, retry, readAhead: config.optimizeReadAhead };
    },
    async confirm(mount) {
      await step(mount, { kind: 'mount-succeeded' });
      mountedAtMonoMs.set(mount, ports.clock.monoMs());
      log('info', 'mount.done', {
        tunnel: mount.id,
        fileSystem: mount.plan.fileSystemId,
        mountPoint: mount.plan.mountPoint,
        port: mount.port,
      });
      watchDirect();
      // Only what was seen once can be seen to be gone.
      void look(mount);
    },
    async undo(mount) {
      await step(mount, { kind: 'mount-failed', inTables: await look(mount) });
      noteKept(mount);
    },
    async callAgain({ phase, plan }) {
      return phase === 'mounting' ? call(plan.callerSocket) : null;
    },
    async abandon(mount) {
      const inTables = mount.phase === 'mounting' ? await look(mount) : false;
      await step(mount, { kind: 'caller-gone', inTables, connections: mount.openSessions() });
      noteKept(mount);
    },
    explain: (mount, status, stderr) => explainRefusal(mount, status, stderr),
    async unmounted(mountPoint) {
      const concerned = listMounted().filter(({ plan }) => plan.mountPoint === mountPoint);
      await closeIfGone(concerned);
      return concerned.length > 0;
    },
    async sweep() {
      for (const tunnel of mounts.list()) tunnel.look();
      const silent = listMounted().filter((mount) => mount.openSessions() === 0 && !isSettling(mount));
      await tryCloseIfGone(silent, 'go');
      await restorer.retry();
    },
    refresh: () => tryCloseIfGone(listMounted(), 'stay'),
    async restore() {
      await restorer.restore();
      // Whoever makes one that cannot be served hears that nobody has it.
      for (const caller of answered.values()) caller.destroy();
      answered.clear();
      await mounts.refresh();
      const taken = beingMade;
      beingMade = [];
      return taken;
    },
    async inherit(inherited, listener) {
      const tunnel = await inheritTunnel(tunnelPorts, inherited, listener);
      served.set(tunnel.id, tunnel);
      const caller = await call(inherited.plan.callerSocket);
      if (caller === null) return;
      tunnel.phase = 'mounting';
      beingMade.push({ mount: tunnel, caller });
    },
    list: () => [...served.values()].filter(isTunnel),
    status: () =>
      [...served.values()].map((mount) => {
        const status = mount.status();
        return presence.of(mount) === 'gone' ? { ...status, state: 'detached' } : status;
      }),
  };
  return mounts;
}

/** How often the mounts without a tunnel are looked for, in milliseconds. */
const directCheckMs = 5_000;

/** How long after it hung up the kernel may connect again, with much to spare. */
const reconnectMs = 120_000;
