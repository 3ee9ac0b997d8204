import type { Socket } from 'node:net';
import { planDelayMs } from '../core/backoff.ts';
import type { MountStatus } from '../core/control-protocol.ts';
import { AgentError, asAgentError, type ErrorMessage } from '../core/errors.ts';
import type { CertificateReply, CertificateRequest, IdentityFacts } from '../core/identity-protocol.ts';
import type { MountSpec } from '../core/mount-spec.ts';
import { planMountId } from '../core/mount-state.ts';
import type { Clock, Log, ResolveName } from '../core/ports.ts';
import { planRenewalAtMs } from '../core/renewal.ts';
import type { Endpoint, UpstreamFacts, WorkerToAgent } from '../core/worker-protocol.ts';
import type { Caller, Identities } from './identities.ts';
import { type Listener, openListener } from './listeners.ts';
import type { Workers } from './workers.ts';

/** What a tunnel is opened with: everything that was decided for its mount. Plain JSON but for nothing secret. */
export interface TunnelPlan {
  spec: MountSpec;
  mountPoint: string | null;
  environment: Record<string, string>;
  fileSystemId: string;
  region: string;
  dnsSuffix: string;
  dnsName: string;
  /** SNI and the name the server certificate must carry. */
  serverName: string;
  mountTargetPort: number;
  dialTimeoutMs: number;
  trustedRootsPem: string[];
  metadataEndpoint: string | null;
  commonName: string;
  clientInfo: { source: string; version: string };
  /** Local ports to try, in order. */
  ports: readonly number[];
}

export interface TunnelPorts {
  clock: Clock;
  log: Log;
  random: () => number;
  /** Numbers sessions, over all tunnels of the agent. */
  nextSessionId(): number;
  resolveName: ResolveName;
  workers: Workers;
  identities: Identities;
  /** The RSA key of all client certificates, PKCS#8 PEM; made once per agent start. */
  privateKeyPem(): Promise<string>;
  /** The last session of the tunnel ended: time to look whether its mount is gone. */
  onQuiet(tunnel: Tunnel): void;
}

export type TunnelPhase = MountStatus['state'];

/** One listener on 127.0.0.1 and everything behind it. */
export interface Tunnel {
  readonly plan: TunnelPlan;
  /** Name of the tunnel and of its state file. */
  readonly id: string;
  readonly port: number;
  phase: TunnelPhase;
  /**
   * Resolves the name, makes the client certificate and one TLS handshake with the mount target.
   *
   * Errors: `dns.*`, `credentials.*`, `target.*`, `tls.*`; `interrupted` when `signal` aborts.
   */
  establish(signal: AbortSignal, report: (phase: string) => void): Promise<void>;
  /** The same without the handshake and without an end: for a tunnel of an earlier agent, whose mount is there. */
  establishInBackground(): void;
  /** Sessions that are open, or waiting for a worker. */
  openSessions(): number;
  receive(message: WorkerToAgent): void;
  /** A socket that no worker has taken after all: it waits for the next one. */
  takeBack(socket: Socket): void;
  /** The worker is gone with its sessions. */
  workerLost(): void;
  /** A new worker is ready. */
  workerReady(): void;
  /** Whose credentials the mount uses, with the ARN if anybody can tell it; null without `iam`. */
  findIdentity(): Promise<IdentityFacts | null>;
  status(): MountStatus;
  close(): Promise<void>;
}

/** How long resolved addresses are used without asking again, in milliseconds. */
const addressLifeMs = 10_000;

/**
 * Binds the listener of a tunnel; connections wait until `establish` is through.
 *
 * Errors: `port.taken`, `port.exhausted`.
 */
export async function createTunnel(ports: TunnelPorts, plan: TunnelPlan): Promise<Tunnel> {
  const { clock, log, workers } = ports;
  const caller: Caller = { environment: plan.environment, metadataEndpoint: plan.metadataEndpoint };
  const credentials = plan.spec.iam
    ? { awsProfile: plan.spec.awsProfile, awsCredsUri: plan.spec.awsCredsUri }
    : null;
  const sessions = new Set<number>();
  const waiting: Socket[] = [];
  const total = { bytesUp: 0, bytesDown: 0 };
  let current = { bytesUp: 0, bytesDown: 0 };
  let accepted = 0;
  let known = false;
  let closed = false;
  let upstream: UpstreamFacts | null = null;
  let certificate: CertificateReply | null = null;
  let lastError: ErrorMessage | null = null;
  let addresses: { list: string[]; atMonoMs: number } | null = null;
  let resolving: Promise<string[]> | null = null;
  let renewal: { cancel(): void } | null = null;
  let retry: { cancel(): void } | null = null;

  const listener: Listener = await openListener(plan.ports, (socket) => {
    socket.on('error', () => socket.destroy());
    waiting.push(socket);
    handOver();
  });
  const tunnelId = planMountId(plan.fileSystemId, plan.mountPoint ?? '/tunnel', listener.port);
  log('info', 'listener.opened', { tunnel: tunnelId, port: listener.port });

  /** Fresh addresses when they can be had, else the last known ones. Errors: `dns.*` when there are none. */
  async function findEndpoints(): Promise<Endpoint[]> {
    if (plan.spec.mountTargetIp !== null)
      return [{ address: plan.spec.mountTargetIp, port: plan.mountTargetPort }];
    if (addresses === null || clock.monoMs() - addresses.atMonoMs >= addressLifeMs) {
      resolving ??= ports.resolveName(plan.dnsName).finally(() => {
        resolving = null;
      });
      try {
        addresses = { list: await resolving, atMonoMs: clock.monoMs() };
      } catch (error) {
        if (addresses === null) throw error;
        note(error, 'name.unresolved');
      }
    }
    return addresses.list.map((address) => ({ address, port: plan.mountTargetPort }));
  }

  /** Gives the waiting connections to the worker; while there is no address to dial, they wait and it tries again. */
  function handOver(attempt = 1): void {
    handOverWaiting().catch((error: unknown) => {
      note(error, 'name.unresolved');
      retry?.cancel();
      retry = clock.schedule(planDelayMs(attempt, ports.random()), () => handOver(attempt + 1));
    });
  }

  async function handOverWaiting(): Promise<void> {
    if (!known || closed || waiting.length === 0) return;
    const endpoints = await findEndpoints();
    while (known && !closed) {
      const socket = waiting.shift();
      if (socket === undefined) break;
      if (socket.destroyed) continue;
      const sessionId = ports.nextSessionId();
      if (!workers.handOver(tunnelId, sessionId, socket, endpoints)) {
        waiting.unshift(socket);
        break;
      }
      sessions.add(sessionId);
      accepted += 1;
    }
  }

  function note(error: unknown, event: string): void {
    const noted = asAgentError(error);
    lastError = noted.toMessage();
    log('warn', event, {
      tunnel: tunnelId,
      fileSystem: plan.fileSystemId,
      code: noted.code,
      error: noted.message,
    });
  }

  async function makeCertificate(): Promise<CertificateReply | null> {
    if (!plan.spec.iam && plan.spec.accessPoint === null) return null;
    const request: CertificateRequest = {
      fileSystemId: plan.fileSystemId,
      accessPointId: plan.spec.accessPoint,
      region: plan.region,
      dnsSuffix: plan.dnsSuffix,
      commonName: plan.commonName,
      clientInfo: plan.clientInfo,
      privateKeyPem: await ports.privateKeyPem(),
      credentials,
    };
    const reply = await ports.identities.certificate(caller, request);
    log('info', 'client-certificate.issued', {
      tunnel: tunnelId,
      fileSystem: plan.fileSystemId,
      source: reply.identity?.source ?? null,
      accessKeyId: reply.identity?.accessKeyId ?? null,
      notAfter: new Date(reply.notAfterMs).toISOString(),
    });
    return reply;
  }

  async function announce(): Promise<void> {
    const client =
      certificate === null
        ? null
        : { certificatePem: certificate.certificatePem, privateKeyPem: await ports.privateKeyPem() };
    if (closed) return;
    const tls = { trustedRootsPem: plan.trustedRootsPem, serverName: plan.serverName, client };
    workers.openTunnel(tunnelId, tls, plan.dialTimeoutMs);
    known = true;
  }

  function planRenewal(): void {
    if (certificate === null || closed) return;
    const nowMs = clock.nowMs();
    const dueMs = planRenewalAtMs(
      {
        notAfterMs: certificate.notAfterMs,
        credentialsExpireAtMs: certificate.identity?.expiresAtMs ?? null,
      },
      nowMs,
      ports.random(),
    );
    renewal = clock.schedule(dueMs - nowMs, () => void renew(1));
  }

  async function renew(attempt: number): Promise<void> {
    try {
      certificate = await makeCertificate();
      await announce();
      if (lastError?.code.startsWith('credentials.') === true) lastError = null;
      planRenewal();
    } catch (error) {
      note(error, 'client-certificate.not-renewed');
      renewal = clock.schedule(renewalRetryMs(attempt), () => void renew(attempt + 1));
    }
  }

  /** Renewal has two hours of slack; asking the metadata service or STS once a minute is enough. */
  const renewalRetryMs = (attempt: number) => planDelayMs(attempt, ports.random()) * 6;

  function establishInBackground(attempt = 1): void {
    establishWithoutProbe().catch((error: unknown) => {
      note(error, 'tunnel.not-restored');
      retry = clock.schedule(planDelayMs(attempt, ports.random()), () => establishInBackground(attempt + 1));
    });
  }

  async function establishWithoutProbe(): Promise<void> {
    certificate = await makeCertificate();
    await announce();
    planRenewal();
    handOver();
  }

  async function establish(report: (phase: string) => void): Promise<void> {
    report(
      plan.spec.mountTargetIp === null ? `resolving ${plan.dnsName}` : `using ${plan.spec.mountTargetIp}`,
    );
    const endpointsFound = findEndpoints();
    if (plan.spec.iam) report('credentials');
    const [endpoints, reply] = await Promise.all([endpointsFound, makeCertificate()]);
    certificate = reply;
    await announce();
    report(
      `connecting ${endpoints.map((endpoint) => endpoint.address).join(', ')} port ${plan.mountTargetPort}`,
    );
    upstream = await workers.probe(tunnelId, endpoints);
    report(`${upstream.tlsVersion} with ${upstream.address}`);
    planRenewal();
  }

  function closeSession(sessionId: number): void {
    sessions.delete(sessionId);
    if (sessions.size === 0 && waiting.length === 0 && !closed) ports.onQuiet(tunnel);
  }

  const tunnel: Tunnel = {
    plan,
    id: tunnelId,
    port: listener.port,
    phase: 'opening',
    openSessions: () => sessions.size + waiting.length,
    establish: (signal: AbortSignal, report: (phase: string) => void) => abortable(signal, establish(report)),
    establishInBackground: () => establishInBackground(),
    receive(message: WorkerToAgent): void {
      switch (message.kind) {
        case 'session.connected':
          upstream = message.upstream;
          break;
        case 'session.closed':
          closeSession(message.sessionId);
          break;
        case 'endpoints.wanted':
          findEndpoints().then(
            (endpoints) => workers.updateEndpoints(tunnelId, endpoints),
            (error: unknown) => note(error, 'name.unresolved'),
          );
          break;
        case 'pong': {
          const counters = message.tunnels.find((entry) => entry.tunnelId === tunnelId);
          if (counters !== undefined) current = { bytesUp: counters.bytesUp, bytesDown: counters.bytesDown };
          break;
        }
      }
    },
    takeBack(socket: Socket): void {
      waiting.push(socket);
      handOver();
    },
    workerLost(): void {
      total.bytesUp += current.bytesUp;
      total.bytesDown += current.bytesDown;
      current = { bytesUp: 0, bytesDown: 0 };
      sessions.clear();
    },
    workerReady: () => handOver(),
    async findIdentity(): Promise<IdentityFacts | null> {
      const known = certificate?.identity ?? null;
      if (credentials === null || known === null || known.arn !== null) return known;
      const { region, dnsSuffix } = plan;
      return ports.identities.whoami(caller, { credentials, region, dnsSuffix }).catch(() => known);
    },
    status(): MountStatus {
      return {
        mountId: tunnelId,
        fileSystemId: plan.fileSystemId,
        accessPointId: plan.spec.accessPoint,
        path: plan.spec.path,
        mountPoint: plan.mountPoint,
        state: tunnel.phase,
        port: listener.port,
        dnsName: plan.dnsName,
        address: upstream?.address ?? null,
        tlsVersion: upstream?.tlsVersion ?? null,
        cipher: upstream?.cipher ?? null,
        serverCertificateExpiresAtMs: upstream?.certificateExpiresAtMs ?? null,
        identity: certificate?.identity ?? null,
        clientCertificateExpiresAtMs: certificate?.notAfterMs ?? null,
        sessions: sessions.size,
        reconnects: Math.max(0, accepted - 1),
        bytesUp: total.bytesUp + current.bytesUp,
        bytesDown: total.bytesDown + current.bytesDown,
        lastError,
      };
    },
    async close(): Promise<void> {
      if (closed) return;
      closed = true;
      known = false;
      renewal?.cancel();
      retry?.cancel();
      for (const socket of waiting.splice(0)) socket.destroy();
      await Promise.all([listener.close(), workers.closeTunnel(tunnelId)]);
      log('info', 'listener.closed', { tunnel: tunnelId, port: listener.port });
    },
  };
  return tunnel;
}

function abortable<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(new AgentError('interrupted', 'the caller went away'));
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
