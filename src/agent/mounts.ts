import type { Server } from 'node:net';
import { configuredSuffix } from '../core/config.ts';
import type { AgentStatus, MountRetry, ServedMount } from '../core/control-protocol.ts';
import { parseFileSystemName } from '../core/endpoint.ts';
import { AgentError, asAgentError } from '../core/errors.ts';
import type { IdentityFacts } from '../core/identity-protocol.ts';
import { describeDifferences, type MountSpec } from '../core/mount-spec.ts';
import { formatMountState, type MountState, parseMountState } from '../core/mount-state.ts';
import { findNfsMounts, findTunnelMounts, type MountEntry, parseMountInfo } from '../core/mountinfo.ts';
import { forgetSecrets } from '../core/secret-environment.ts';
import { createDirect } from './direct.ts';
import { decideRegion, type MountRequest, type PlanPorts, planEnvironment, planMount } from './plan.ts';
import { explainRefusal } from './refusal.ts';
import {
  createTunnel,
  type InheritedTunnel,
  inheritTunnel,
  type Mount,
  type Tunnel,
  type TunnelPlan,
  type TunnelPorts,
} from './tunnel.ts';

export interface MountsPorts extends Omit<TunnelPorts, 'onQuiet'>, Omit<PlanPorts, 'identities'> {
  readMountTables(): Promise<string[]>;
  stateFiles: {
    write(mountId: string, text: string): Promise<void>;
    remove(mountId: string): Promise<void>;
    read(): Promise<{ mountId: string; text: string }[]>;
    setAside(mountId: string): Promise<void>;
  };
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
  confirm(mount: Mount): void;
  /** mount.nfs4 failed: everything is undone. */
  undo(mount: Mount): Promise<void>;
  /** The caller died: everything is undone, unless the kernel had already mounted. */
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
  const tunnelPorts: TunnelPorts = { ...ports, onQuiet: () => void mounts.sweep() };

  const isTunnel = (mount: Mount): mount is Tunnel => mount.port !== null;
  const findServed = (mountPoint: string) =>
    [...served.values()].findLast(({ plan, phase }) => plan.mountPoint === mountPoint && phase === 'mounted');

  async function remove(mount: Mount): Promise<void> {
    if (!served.delete(mount.id)) return;
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
    mount.phase = 'mounting';
  }

  async function readTables(): Promise<MountEntry[][]> {
    return (await ports.readMountTables()).map(parseMountInfo);
  }

  /**
   * Whether the kernel may come back to a tunnel whose own mount is gone: it talks to one server through one
   * connection, the first one, whatever port later mounts of that server were given (RFC 8881, 2.10.5).
   */
  function mayCarryAnother(mount: Mount, tables: MountEntry[][]): boolean {
    if (!isTunnel(mount)) return false;
    const hungUpAtMs = mount.hungUpAtMs();
    if (hungUpAtMs !== null && ports.clock.nowMs() - hungUpAtMs >= reconnectMs) return false;
    return [...served.values()].some(
      (other) => other !== mount && isSameServer(other.plan, mount.plan) && isInTables(other, tables),
    );
  }

  async function closeIfGone(candidates: Mount[]): Promise<void> {
    if (candidates.length === 0) return;
    const tables = await readTables();
    for (const mount of candidates) {
      if (isInTables(mount, tables) || mount.openSessions() > 0 || mayCarryAnother(mount, tables)) continue;
      log('info', 'mount.gone', { tunnel: mount.id, mountPoint: mount.plan.mountPoint });
      await remove(mount);
    }
  }

  /** `recorded` are all states that were read: one of the same server may be carried by this one's tunnel. */
  async function restoreOne(
    state: MountState,
    recorded: readonly MountState[],
    tables: MountEntry[][],
  ): Promise<void> {
    const isMounted = ({ port, mountPoint }: MountState) =>
      tables.some(
        (entries) =>
          (port === null ? findNfsMounts(entries, mountPoint) : findTunnelMounts(entries, port)).length > 0,
      );
    const mayCarry = (other: MountState) =>
      state.port !== null && isSameServer(other, state) && isMounted(other);
    if (!isMounted(state) && !recorded.some(mayCarry)) {
      await ports.stateFiles.remove(state.mountId);
      return;
    }
    const request = { spec: state.spec, mountPoint: state.mountPoint, environment: state.environment };
    const { plan } = await planMount(ports, request);
    const mount =
      state.port === null
        ? createDirect(ports, plan)
        : await createTunnel(tunnelPorts, {
            ...plan,
            localPorts: { lower: state.port, upperExclusive: state.port + 1 },
          });
    mount.phase = 'mounted';
    served.set(mount.id, mount);
    if (isTunnel(mount)) mount.establishInBackground();
    log('info', 'mount.restored', {
      tunnel: state.mountId,
      fileSystem: state.fileSystemId,
      port: state.port,
    });
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
        if (request.mountPoint === null) mount.phase = 'tunnel';
        else await record(mount, request.mountPoint);
      } catch (error) {
        await remove(mount);
        throw error;
      }
      const retry = {
        attempts: config.retryNfsMount ? config.retryNfsMountCount : 1,
        attemptTimeoutMs: config.retryNfsMountTimeoutMs,
      };
      return { mount, retry, readAhead: config.optimizeReadAhead };
    },
    async compare({ spec, mountPoint, environment }) {
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
    confirm(mount) {
      mount.phase = 'mounted';
      log('info', 'mount.done', {
        tunnel: mount.id,
        fileSystem: mount.plan.fileSystemId,
        mountPoint: mount.plan.mountPoint,
        port: mount.port,
      });
    },
    undo: remove,
    async abandon(mount) {
      const mounted =
        mount.phase === 'mounting' && (await readTables()).some((entries) => mount.isMounted(entries));
      if (mounted) mounts.confirm(mount);
      else await remove(mount);
    },
    explain: (mount, status, stderr) => explainRefusal(mount, status, stderr),
    async whoami({ mountPoint, region, environment }) {
      if (mountPoint !== null) {
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
      const concerned = [...served.values()].filter(
        (mount) => mount.plan.mountPoint === mountPoint && mount.phase === 'mounted',
      );
      await closeIfGone(concerned);
      return concerned.length > 0;
    },
    async sweep() {
      const silent = [...served.values()].filter(
        (mount) => mount.phase === 'mounted' && mount.openSessions() === 0,
      );
      await closeIfGone(silent).catch((error: unknown) => {
        log('error', 'sweep.failed', { error: asAgentError(error).message });
      });
    },
    async restore() {
      const tables = await readTables();
      const recorded: MountState[] = [];
      for (const file of await ports.stateFiles.read()) {
        if (served.has(file.mountId)) continue;
        const reading = parseMountState(file.text);
        if (reading.kind === 'damaged') {
          log('warn', 'state-file.damaged', { mount: file.mountId, reason: reading.reason });
          await ports.stateFiles.setAside(file.mountId);
          continue;
        }
        recorded.push(reading.state);
      }
      for (const state of recorded) {
        const { mountId, port } = state;
        await restoreOne(state, recorded, tables).catch((error: unknown) => {
          const { code, message } = asAgentError(error);
          log('error', 'mount.not-restored', { tunnel: mountId, port, code, error: message });
        });
      }
    },
    async inherit(inherited, listener) {
      const tunnel = await inheritTunnel(tunnelPorts, inherited, listener);
      served.set(tunnel.id, tunnel);
    },
    list: () => [...served.values()].filter(isTunnel),
    status: () => [...served.values()].map((mount) => mount.status()),
  };
  return mounts;
}

/** How long after it hung up the kernel may connect again, with much to spare. */
const reconnectMs = 120_000;

/** Access points of one file system are servers of their own. */
function isSameServer(one: Pick<TunnelPlan, 'fileSystemId' | 'spec'>, other: typeof one): boolean {
  return one.fileSystemId === other.fileSystemId && one.spec.accessPoint === other.spec.accessPoint;
}

function isInTables(mount: Mount, tables: MountEntry[][]): boolean {
  return tables.some((entries) => mount.isMounted(entries));
}

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
