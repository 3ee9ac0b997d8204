import type { Server } from 'node:net';
import { configuredSuffix } from '../core/config.ts';
import type { AgentStatus, MountRetry, ServedMount } from '../core/control-protocol.ts';
import { parseFileSystemName } from '../core/endpoint.ts';
import { AgentError, asAgentError } from '../core/errors.ts';
import type { EventName } from '../core/events.ts';
import type { IdentityFacts } from '../core/identity-protocol.ts';
import { decideMount, type MountEvent, type MountSight } from '../core/mount-life.ts';
import { describeDifferences, type MountSpec } from '../core/mount-spec.ts';
import { formatMountState, isSameServer, type MountState } from '../core/mount-state.ts';
import { type MountEntry, type NfsIndex, parseMountInfo } from '../core/mountinfo.ts';
import { forgetSecrets } from '../core/secret-environment.ts';
import { createDirect } from './direct.ts';
import {
  decideRegion,
  type MountRequest,
  type PlanPorts,
  planEnvironment,
  planMount,
  planRecordedMount,
} from './plan.ts';
import { createPresence, isMountedIn } from './presence.ts';
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
}

/** All mounts of this agent, and the tunnels that serve none. */
export interface Mounts {
  open(
    request: MountRequest,
    signal: AbortSignal,
    report: (phase: string) => void,
  ): Promise<{ mount: Mount; retry: MountRetry; readAhead: boolean }>;
  /** What is served at a mount point, compared with what is asked for; null when it is not ours. */
  compare(request: MountRequest & { mountPoint: string }): Promise<ServedMount | null>;
  /** mount.nfs4 succeeded: the mount stays. */
  confirm(mount: Mount): Promise<void>;
  /** mount.nfs4 failed: everything is undone, unless the kernel has mounted in spite of it. */
  undo(mount: Mount): Promise<void>;
  /** The caller died: everything is undone, unless the kernel has mounted or its mount.nfs4 is still at work. */
  abandon(mount: Mount): Promise<void>;
  /** What to tell a user whose mount.nfs4 failed. */
  explain(mount: Mount, status: number, stderr: string): Promise<AgentError>;
  /**
   * Whose credentials a mount uses, or a mount by the caller would use; null for a mount without `iam`.
   *
   * Errors: `mountpoint.not-mounted`, `region.*`, `credentials.*`, `config.*`.
   */
  whoami(question: WhoamiQuestion): Promise<IdentityFacts | null>;
  /** The caller has unmounted a directory. False when nothing of ours served it. */
  unmounted(mountPoint: string): Promise<boolean>;
  /** Looks for mounts that are gone; called when a tunnel fell silent, and now and then. */
  sweep(): Promise<void>;
  /** Compares with the kernel's mount tables before a question is answered: what was seen there and is gone, goes. */
  refresh(): Promise<void>;
  /** Takes up the mounts of an earlier agent that are recorded and not here yet. */
  restore(): Promise<void>;
  /** Goes on with a tunnel of the agent before this one. */
  inherit(inherited: InheritedTunnel, listener: Server): Promise<void>;
  /** The tunnels; a mount without one needs nothing while it lasts. */
  list(): Tunnel[];
  status(): AgentStatus['mounts'];
}

export interface WhoamiQuestion {
  mountPoint: string | null;
  region: string | null;
  environment: Record<string, string>;
}

export function createMounts(ports: MountsPorts): Mounts {
  const { log } = ports;
  const served = new Map<string, Mount>();
  const restorer = createRestorer({
    log,
    stateFiles: ports.stateFiles,
    readTables,
    isServed: (mountId) => served.has(mountId),
    isServedPort: (port) => [...served.values()].some((mount) => mount.port === port),
    serve: serveRecorded,
  });
  const tunnelPorts: TunnelPorts = {
    ...ports,
    onQuiet: () => void mounts.sweep(),
    isReserved: (port) => restorer.isReserved(port),
  };

  const presence = createPresence(ports.readMountTables);
  /** Monotonic milliseconds at which mount.nfs4 had succeeded. */
  const mountedAtMonoMs = new WeakMap<Mount, number>();
  let directCheck: { cancel(): void } | null = null;

  const isTunnel = (mount: Mount): mount is Tunnel => mount.port !== null;
  const findServed = (mountPoint: string) =>
    [...served.values()].findLast(({ plan, phase }) => plan.mountPoint === mountPoint && phase === 'mounted');

  /** Errors: `runtime-dir.unusable` when the record of a mount that closes cannot be removed; it is closed all the same. */
  async function step(mount: Mount, event: MountEvent): Promise<void> {
    mount.phase = decideMount(mount.phase, event);
    if (mount.phase !== 'closing' || !served.delete(mount.id)) return;
    await mount.close();
    await ports.stateFiles.remove(mount.id);
  }

  /** A record of an earlier mount there goes, if that is gone. Errors: `mountpoint.busy` while another is under way. */
  async function claim(mountPoint: string): Promise<void> {
    await mounts.unmounted(mountPoint);
    const underWay = [...served.values()].some(
      ({ plan, phase }) => plan.mountPoint === mountPoint && (phase === 'opening' || phase === 'mounting'),
    );
    if (!underWay) return;
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
      const sight: MountSight = {
        inTables: presence.of(mount) === 'there',
        connections: mount.openSessions(),
        mayCarryAnother: mayCarryAnother(mount, tables),
      };
      // One whose record cannot be removed does not keep the others.
      await step(mount, { kind: 'looked', sight }).catch((error: unknown) =>
        logFailure('undo.failed', error),
      );
      if (mount.phase === 'closing')
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

  async function serveRecorded(state: MountState): Promise<void> {
    const plan = await planRecordedMount(ports, state);
    const mount = plan.spec.tls ? await createTunnel(tunnelPorts, plan) : createDirect(ports, plan);
    mount.phase = 'mounted';
    served.set(mount.id, mount);
    if (isTunnel(mount)) mount.establishInBackground();
    else watchDirect();
  }

  /** Whether a device names the file system of a mount: by its id, its name, or another name of that. */
  async function isSameFileSystem(there: Mount, { remote }: MountSpec): Promise<boolean> {
    if (remote.kind === 'file-system') return remote.id === there.plan.fileSystemId;
    const known = there.plan.spec.remote;
    if (known.kind === 'name' && known.name === remote.name) return true;
    const parts =
      parseFileSystemName(remote.name) ?? parseFileSystemName(await ports.resolveCanonicalName(remote.name));
    return parts?.fileSystemId === there.plan.fileSystemId;
  }

  const mounts: Mounts = {
    async open(request, signal, report) {
      const { plan, config } = await planMount(ports, request);
      if (request.mountPoint !== null) await claim(request.mountPoint);
      const mount = plan.spec.tls ? await createTunnel(tunnelPorts, plan) : createDirect(ports, plan);
      served.set(mount.id, mount);
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
    async compare({ spec, mountPoint, environment }) {
      await mounts.refresh();
      const there = findServed(mountPoint);
      if (there === undefined) return null;
      const { plan } = there;
      const { data: differences, way: tunnelDifferences } = describeDifferences(plan.spec, spec);
      if (!(await isSameFileSystem(there, spec)))
        differences.unshift(`the file system is ${plan.fileSystemId} there`);
      const askedEnvironment = planEnvironment(environment, await ports.readConfig());
      if (spec.iam && differences.length === 0 && !sameIdentity(plan.environment, askedEnvironment))
        differences.push('the environment names another source of credentials');
      const through = plan.spec.accessPoint === null ? '' : ` through ${plan.spec.accessPoint}`;
      return {
        description: `${plan.fileSystemId}:${plan.spec.path}${through}`,
        differences,
        tunnelDifferences,
        port: there.port,
        server: there.server,
      };
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
    async abandon(mount) {
      const inTables = mount.phase === 'mounting' ? await look(mount) : false;
      await step(mount, { kind: 'caller-gone', inTables, connections: mount.openSessions() });
      noteKept(mount);
    },
    explain: (mount, status, stderr) => explainRefusal(mount, status, stderr),
    async whoami({ mountPoint, region, environment }) {
      if (mountPoint !== null) {
        await mounts.refresh();
        const there = findServed(mountPoint);
        if (there !== undefined) return there.findIdentity();
        throw new AgentError('mountpoint.not-mounted', `no EFS file system is mounted on ${mountPoint}`, {
          mountPoint,
        });
      }
      const config = await ports.readConfig();
      const caller = {
        environment: planEnvironment(environment, config),
        metadataEndpoint: config.metadataEndpoint,
      };
      const decided = await decideRegion(ports, region, caller, config, null);
      return ports.identities.whoami(caller, {
        credentials: { awsProfile: null, awsCredsUri: null, roleArn: null, jwtPath: null },
        region: decided,
        dnsSuffix: configuredSuffix(config, decided).value,
      });
    },
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
      await mounts.refresh();
    },
    async inherit(inherited, listener) {
      const tunnel = await inheritTunnel(tunnelPorts, inherited, listener);
      served.set(tunnel.id, tunnel);
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

/** Variables that decide whose credentials are found. */
const identityEnvironment = [
  'AWS_PROFILE',
  'AWS_CONTAINER_CREDENTIALS_RELATIVE_URI',
  'AWS_CONTAINER_CREDENTIALS_FULL_URI',
  'AWS_ROLE_ARN',
  'AWS_WEB_IDENTITY_TOKEN_FILE',
] as const;

/** Keys in the environment are compared by being there: the values are not kept. */
function sameIdentity(there: Record<string, string>, asked: Record<string, string>): boolean {
  return (
    identityEnvironment.every((name) => there[name] === asked[name]) &&
    'AWS_ACCESS_KEY_ID' in there === 'AWS_ACCESS_KEY_ID' in asked
  );
}
