import type { Config } from '../core/config.ts';
import { configuredCaFile, configuredSuffix } from '../core/config.ts';
import type { AgentStatus, MountRetry } from '../core/control-protocol.ts';
import { isRegionName, parseFileSystemName, planDnsName, tlsServerName } from '../core/endpoint.ts';
import { AgentError, asAgentError } from '../core/errors.ts';
import type { MountSpec } from '../core/mount-spec.ts';
import { formatMountState, type MountState, parseMountState } from '../core/mount-state.ts';
import { findTunnelMounts, parseMountInfo } from '../core/mountinfo.ts';
import type { ResolveCanonicalName } from '../core/ports.ts';
import { planPorts } from './listeners.ts';
import { explainRefusal } from './refusal.ts';
import { createTunnel, type Tunnel, type TunnelPlan, type TunnelPorts } from './tunnel.ts';

/** A request to open a tunnel, as it came over the control socket. */
export interface MountRequest {
  spec: MountSpec;
  mountPoint: string | null;
  environment: Record<string, string>;
}

export interface MountsPorts extends Omit<TunnelPorts, 'onQuiet'> {
  version: string;
  hostName: string;
  /** Read for every mount, so that an edited file counts at once. Errors: `config.*`. */
  readConfig(): Promise<Config>;
  /** PEM texts of the trust anchors. `named` is false for the built-in default path. Errors: `ca-file.unreadable`. */
  readTrustedRoots(path: string, named: boolean): Promise<string[]>;
  resolveCanonicalName: ResolveCanonicalName;
  readMountTables(): Promise<string[]>;
  stateFiles: {
    write(mountId: string, text: string): Promise<void>;
    remove(mountId: string): Promise<void>;
    read(): Promise<{ mountId: string; text: string }[]>;
    setAside(mountId: string): Promise<void>;
  };
}

/** All tunnels of this agent. */
export interface Mounts {
  open(
    request: MountRequest,
    signal: AbortSignal,
    report: (phase: string) => void,
  ): Promise<{ tunnel: Tunnel; retry: MountRetry; readAhead: boolean }>;
  /** mount.nfs4 succeeded: the tunnel stays. */
  confirm(tunnel: Tunnel): void;
  /** mount.nfs4 failed: the tunnel is undone. */
  undo(tunnel: Tunnel): Promise<void>;
  /** The caller died: the tunnel is undone, unless the kernel had already mounted. */
  abandon(tunnel: Tunnel): Promise<void>;
  /** What to tell a user whose mount.nfs4 failed. */
  explain(tunnel: Tunnel, status: number, stderr: string): Promise<AgentError>;
  /** The caller has unmounted a directory. False when no tunnel served it. */
  unmounted(mountPoint: string): Promise<boolean>;
  /** Looks for mounts that are gone; called when a tunnel fell silent, and now and then. */
  sweep(): Promise<void>;
  restore(): Promise<void>;
  list(): Tunnel[];
  status(): AgentStatus['mounts'];
}

export function createMounts(ports: MountsPorts): Mounts {
  const { log } = ports;
  const tunnels = new Map<string, Tunnel>();
  const tunnelPorts: TunnelPorts = { ...ports, onQuiet: () => void mounts.sweep() };

  async function planTunnel(request: MountRequest): Promise<{ plan: TunnelPlan; config: Config }> {
    const { spec, environment } = request;
    const config = await ports.readConfig();
    for (const warning of config.warnings) log('warn', 'config.warning', { warning });
    const named = spec.remote.kind === 'name' ? await readFileSystemName(spec.remote.name) : null;
    const region = await decideRegion(spec, environment, config, named?.region ?? null);
    const suffix = configuredSuffix(config, region).value;
    const fileSystemId = spec.remote.kind === 'file-system' ? spec.remote.id : named!.fileSystemId;
    const dnsName = planDnsName({
      format: config.dnsNameFormat,
      fileSystemId,
      region,
      suffix,
      zone: named?.zone ?? null,
    });
    if (named !== null && dnsName !== named.canonicalName) {
      throw new AgentError(
        'spec.malformed',
        `"${named.canonicalName}" did not resolve to a valid DNS name of an EFS mount target: for ${fileSystemId} in ${region} it would be ${dnsName}`,
      );
    }
    const caFile = configuredCaFile(config, region);
    const trustedRootsPem =
      spec.caFile === null
        ? await ports.readTrustedRoots(caFile.value, caFile.origin.kind !== 'default')
        : await ports.readTrustedRoots(spec.caFile, true);
    const plan: TunnelPlan = {
      ...request,
      fileSystemId,
      region,
      dnsSuffix: suffix,
      dnsName,
      serverName: tlsServerName(dnsName, fileSystemId),
      mountTargetPort: config.mountTargetPort,
      dialTimeoutMs: config.dialTimeoutMs,
      trustedRootsPem,
      metadataEndpoint: config.metadataEndpoint,
      commonName: ports.hostName,
      clientInfo: { source: config.clientSource ?? 'unknown', version: ports.version },
      ports:
        spec.tlsPort === null
          ? planPorts(config.portRangeLower, config.portRangeUpper, ports.random)
          : [spec.tlsPort],
    };
    return { plan, config };
  }

  async function readFileSystemName(name: string) {
    const canonicalName = parseFileSystemName(name) === null ? await ports.resolveCanonicalName(name) : name;
    const parts = parseFileSystemName(canonicalName);
    if (parts === null) {
      throw new AgentError(
        'spec.malformed',
        `"${name}" did not resolve to a valid DNS name of an EFS mount target (fs-<id>.efs.<region>.<suffix>)`,
        { name },
      );
    }
    return { ...parts, canonicalName };
  }

  /** Source: specification 3.2; the region inside a DNS name counts before the instance's own. */
  async function decideRegion(
    spec: MountSpec,
    environment: Record<string, string>,
    config: Config,
    inName: string | null,
  ): Promise<string> {
    const given =
      spec.region ??
      environment['AWS_REGION'] ??
      environment['AWS_DEFAULT_REGION'] ??
      config.region ??
      inName;
    if (given !== null) {
      if (isRegionName(given)) return given;
      throw new AgentError('region.malformed', `"${given}" is not the name of a region`, { region: given });
    }
    try {
      const caller = { environment, metadataEndpoint: config.metadataEndpoint };
      return (await ports.identities.instance(caller)).region;
    } catch (error) {
      const reason = asAgentError(error);
      throw new AgentError(
        'region.unknown',
        `the region is not configured and the instance does not tell it: ${reason.message}`,
        {},
        error,
      );
    }
  }

  async function remove(tunnel: Tunnel): Promise<void> {
    if (!tunnels.delete(tunnel.id)) return;
    await tunnel.close();
    await ports.stateFiles.remove(tunnel.id);
  }

  /** Written before the kernel mounts: a full disk must stop the mount, and a dead agent must leave a trace of it. */
  async function record(tunnel: Tunnel, mountPoint: string): Promise<void> {
    const { plan } = tunnel;
    const state: MountState = {
      mountId: tunnel.id,
      fileSystemId: plan.fileSystemId,
      accessPointId: plan.spec.accessPoint,
      path: plan.spec.path,
      mountPoint,
      port: tunnel.port,
      dnsName: plan.dnsName,
      region: plan.region,
      spec: plan.spec,
      environment: plan.environment,
      createdAtMs: ports.clock.nowMs(),
    };
    await ports.stateFiles.write(tunnel.id, formatMountState(state));
    tunnel.phase = 'mounting';
  }

  async function mountedPorts(): Promise<(port: number) => boolean> {
    const tables = (await ports.readMountTables()).map(parseMountInfo);
    return (port) => tables.some((entries) => findTunnelMounts(entries, port).length > 0);
  }

  async function closeIfGone(candidates: Tunnel[]): Promise<void> {
    if (candidates.length === 0) return;
    const isMounted = await mountedPorts();
    for (const tunnel of candidates) {
      if (isMounted(tunnel.port) || tunnel.openSessions() > 0) continue;
      log('info', 'mount.gone', { tunnel: tunnel.id, mountPoint: tunnel.plan.mountPoint });
      await remove(tunnel);
    }
  }

  const mounts: Mounts = {
    async open(request, signal, report) {
      const { plan, config } = await planTunnel(request);
      const tunnel = await createTunnel(tunnelPorts, plan);
      tunnels.set(tunnel.id, tunnel);
      try {
        await tunnel.establish(signal, report);
        if (request.mountPoint === null) tunnel.phase = 'tunnel';
        else await record(tunnel, request.mountPoint);
      } catch (error) {
        await remove(tunnel);
        throw error;
      }
      const retry = {
        attempts: config.retryNfsMount ? config.retryNfsMountCount : 1,
        attemptTimeoutMs: config.retryNfsMountTimeoutMs,
      };
      return { tunnel, retry, readAhead: config.optimizeReadAhead };
    },
    confirm(tunnel) {
      tunnel.phase = 'mounted';
      log('info', 'mount.done', {
        tunnel: tunnel.id,
        fileSystem: tunnel.plan.fileSystemId,
        mountPoint: tunnel.plan.mountPoint,
        port: tunnel.port,
      });
    },
    undo: remove,
    async abandon(tunnel) {
      if (tunnel.phase === 'mounting' && (await mountedPorts())(tunnel.port)) mounts.confirm(tunnel);
      else await remove(tunnel);
    },
    explain: (tunnel, status, stderr) => explainRefusal(tunnel, status, stderr),
    async unmounted(mountPoint) {
      const concerned = [...tunnels.values()].filter(
        (tunnel) => tunnel.plan.mountPoint === mountPoint && tunnel.phase === 'mounted',
      );
      await closeIfGone(concerned);
      return concerned.length > 0;
    },
    async sweep() {
      const silent = [...tunnels.values()].filter(
        (tunnel) => tunnel.phase === 'mounted' && tunnel.openSessions() === 0,
      );
      await closeIfGone(silent).catch((error: unknown) => {
        log('error', 'sweep.failed', { error: asAgentError(error).message });
      });
    },
    async restore() {
      const isMounted = await mountedPorts();
      for (const file of await ports.stateFiles.read()) {
        const reading = parseMountState(file.text);
        if (reading.kind === 'damaged') {
          log('warn', 'state-file.damaged', { mount: file.mountId, reason: reading.reason });
          await ports.stateFiles.setAside(file.mountId);
          continue;
        }
        const { state } = reading;
        if (!isMounted(state.port)) {
          await ports.stateFiles.remove(file.mountId);
          continue;
        }
        try {
          const request = { spec: state.spec, mountPoint: state.mountPoint, environment: state.environment };
          const { plan } = await planTunnel(request);
          const tunnel = await createTunnel(tunnelPorts, { ...plan, ports: [state.port] });
          tunnel.phase = 'mounted';
          tunnels.set(tunnel.id, tunnel);
          tunnel.establishInBackground();
          log('info', 'mount.restored', {
            tunnel: state.mountId,
            fileSystem: state.fileSystemId,
            port: state.port,
          });
        } catch (error) {
          const { code, message } = asAgentError(error);
          log('error', 'mount.not-restored', {
            tunnel: state.mountId,
            port: state.port,
            code,
            error: message,
          });
        }
      }
    },
    list: () => [...tunnels.values()],
    status: () => [...tunnels.values()].map((tunnel) => tunnel.status()),
  };
  return mounts;
}
