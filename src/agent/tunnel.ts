import type { Server, Socket } from 'node:net';
import { planDelayMs } from '../core/backoff.ts';
import type { MountStatus } from '../core/control-protocol.ts';
import { AgentError, asAgentError, fromErrorMessage } from '../core/errors.ts';
import type { EventName } from '../core/events.ts';
import type { CertificateReply, CertificateRequest, IdentityFacts } from '../core/identity-protocol.ts';
import type { MountPhase } from '../core/mount-life.ts';
import type { MountSpec } from '../core/mount-spec.ts';
import { planMountId } from '../core/mount-state.ts';
import type { Clock, Log } from '../core/ports.ts';
import { decideCondition, noTraffic, noteTraffic, readTraffic } from '../core/traffic.ts';
import type {
  Endpoint,
  SessionEnd,
  TunnelState,
  UpstreamFacts,
  WorkerToAgent,
} from '../core/worker-protocol.ts';
import {
  type AddressPorts,
  createAddressFinder,
  explainUnreachable,
  type FoundAddresses,
  showEndpoints,
} from './addresses.ts';
import type { Caller, Identities } from './identities.ts';
import { adoptListener, type Listener, openListener, planPorts } from './listeners.ts';
import type { LocalUsersCheck } from './local-users.ts';
import { createRotation } from './rotation.ts';
import { shareRoots } from './shared-roots.ts';
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
  /** Ask the EFS API when the name has no address. */
  askApi: boolean;
  trustedRootsPem: string[];
  metadataEndpoint: string | null;
  commonName: string;
  clientInfo: { source: string; version: string };
  /** One of these becomes the tunnel's. */
  localPorts: { lower: number; upperExclusive: number };
  /** Name of the socket on which whoever makes the mount is called; null when nobody can be, absent from an older agent. */
  callerSocket?: string | null;
}

/** What a tunnel leaves to the same tunnel of the next agent; its listening socket travels beside it. */
export interface InheritedTunnel {
  plan: TunnelPlan;
  certificate: CertificateReply | null;
  upstream: UpstreamFacts | null;
  total: { bytesUp: number; bytesDown: number };
  accepted: number;
  /** Absent from an agent that did not keep it. */
  lastError?: MountStatus['lastError'];
}

export interface TunnelPorts extends AddressPorts {
  clock: Clock;
  log: Log;
  random: () => number;
  /** Numbers sessions, over all tunnels of the agent. */
  nextSessionId(): number;
  workers: Workers;
  identities: Identities;
  localUsers: LocalUsersCheck;
  /** The RSA key of all client certificates, PKCS#8 PEM; made once per agent start. */
  privateKeyPem(): Promise<string>;
  /** Whether a mount that this agent does not serve uses the port: its kernel would take another tunnel for its own. */
  isReserved(port: number): boolean;
  /** How long a client certificate is used at most, in milliseconds. */
  renewalMs: number;
  /** The last session of the tunnel ended: time to look whether its mount is gone. */
  onQuiet(tunnel: Tunnel): void;
}

type ClosedSession = Extract<WorkerToAgent, { kind: 'session.closed' }>;

/** What the agent keeps for one mount: a tunnel, or without `tls` the record alone. */
export interface Mount {
  readonly plan: TunnelPlan;
  /** Name of the mount and of its state file. */
  readonly id: string;
  /** What mount.nfs4 connects to; IPv6 in brackets. */
  readonly server: string;
  /** Local port of the tunnel; null without one. */
  readonly port: number | null;
  phase: MountPhase;
  /**
   * Resolves the name, makes the client certificate and one TLS handshake with the mount target.
   *
   * Errors: `dns.*`, `credentials.*`, `target.*`, `tls.*`; `interrupted` when `signal` aborts.
   */
  establish(signal: AbortSignal, report: (phase: string) => void): Promise<void>;
  /** Sessions that are open, or waiting for a worker. */
  openSessions(): number;
  /** Whose credentials the mount uses, with the ARN if anybody can tell it; null without `iam`. */
  findIdentity(): Promise<IdentityFacts | null>;
  /** Whether the mount target has ended connections after the TLS handshake, and never answered on one. */
  wasTurnedAway(): boolean;
  status(): MountStatus;
  close(): Promise<void>;
}

/** One listener on 127.0.0.1 and everything behind it. */
export interface Tunnel extends Mount {
  readonly port: number;
  readonly listener: Server;
  /** As `establish`, without the handshake and without an end: for a tunnel of an earlier agent, whose mount is there. */
  establishInBackground(): void;
  /** Notices a clock that was set, and credentials that have run out meanwhile. */
  look(): void;
  /** Epoch milliseconds at which the kernel hung up its last connection; null while there is one, or when another side ended it. */
  hungUpAtMs(): number | null;
  receive(message: WorkerToAgent): void;
  /** What the worker says of the tunnel's traffic, as often as it changes. */
  hearTraffic(report: TunnelState): void;
  /** A socket that no worker has taken after all: it waits for the next one. */
  takeBack(socket: Socket): void;
  /** How many sessions a worker of an earlier agent still carries. */
  setOrphanSessions(workerPid: number, sessions: number): void;
  /** The worker is gone with its sessions. */
  workerLost(): void;
  /** A new worker is ready. */
  workerReady(): void;
  bequeath(): InheritedTunnel;
  /** A successor has the listener: takes no more connections, and resolves when those it took are a worker's. */
  release(): Promise<void>;
}

/**
 * Binds the listener of a tunnel; connections wait until `establish` is through.
 *
 * Errors: `port.taken`, `port.exhausted`.
 */
export function createTunnel(ports: TunnelPorts, plan: TunnelPlan): Promise<Tunnel> {
  const candidates = planPorts(plan.localPorts, ports.isReserved, ports.random);
  return joinTunnel(ports, plan, null, (onSocket) => openListener(plan.localPorts, candidates, onSocket));
}

/**
 * Goes on with a tunnel of an earlier agent: the listening socket is the same one, and so is the certificate.
 *
 * Errors: none.
 */
export async function inheritTunnel(
  ports: TunnelPorts,
  inherited: InheritedTunnel,
  listener: Server,
): Promise<Tunnel> {
  const tunnel = await joinTunnel(ports, inherited.plan, inherited, (onSocket) =>
    adoptListener(listener, onSocket),
  );
  tunnel.phase = 'mounted';
  tunnel.establishInBackground();
  return tunnel;
}

async function joinTunnel(
  ports: TunnelPorts,
  decided: TunnelPlan,
  inherited: InheritedTunnel | null,
  listen: (onSocket: (socket: Socket) => void) => Promise<Listener>,
): Promise<Tunnel> {
  const plan = { ...decided, trustedRootsPem: shareRoots(decided.trustedRootsPem) };
  const { clock, log, workers } = ports;
  const caller: Caller = { environment: plan.environment, metadataEndpoint: plan.metadataEndpoint };
  const credentials = plan.spec.iam
    ? {
        awsProfile: plan.spec.awsProfile,
        awsCredsUri: plan.spec.awsCredsUri,
        roleArn: plan.spec.roleArn,
        jwtPath: plan.spec.jwtPath,
      }
    : null;
  const sessions = new Set<number>();
  /** Sessions that workers of an earlier agent still carry, by worker. */
  const orphanSessions = new Map<number, number>();
  const waiting: Socket[] = [];
  /** Connections whose owner is being looked up. */
  const admissions = new Set<Promise<void>>();
  const total = { bytesUp: 0, bytesDown: 0, ...inherited?.total };
  let traffic = noTraffic;
  let accepted = inherited?.accepted ?? 0;
  let known = false;
  let closed = false;
  let hungUpAtMs: number | null = null;
  let answered = false;
  let turnedAway = false;
  let upstream: UpstreamFacts | null = inherited?.upstream ?? null;
  let arn: string | null = null;
  let lastError: MountStatus['lastError'] = inherited?.lastError ?? null;
  let retry: { cancel(): void } | null = null;

  const listener: Listener = await listen((socket) => {
    socket.on('error', () => socket.destroy());
    const admission = admit(socket);
    admissions.add(admission);
    void admission.finally(() => admissions.delete(admission));
  });
  const tunnelId = planMountId(plan.fileSystemId, plan.mountPoint ?? '/tunnel', listener.port);
  log('info', inherited === null ? 'listener.opened' : 'listener.inherited', {
    tunnel: tunnelId,
    port: listener.port,
  });

  /** Whoever may not use the tunnel gets a reset, and not a byte of what it sent is read. */
  async function admit(socket: Socket): Promise<void> {
    if (!(await ports.localUsers.admit(socket, plan.fileSystemId)) || closed) {
      socket.resetAndDestroy();
      return;
    }
    hungUpAtMs = null;
    waiting.push(socket);
    rotation.look();
    handOver();
  }

  const findAddresses = createAddressFinder(ports, plan, caller, (error) => note(error, 'name.unresolved'));

  const asEndpoints = ({ list }: FoundAddresses): Endpoint[] =>
    list.map((address) => ({ address, port: plan.mountTargetPort }));

  /** Errors: `dns.*` when no address is known. */
  async function findEndpoints(): Promise<Endpoint[]> {
    return asEndpoints(await findAddresses());
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

  function remember(error: AgentError): void {
    lastError = { ...error.toMessage(), atMs: clock.nowMs() };
  }

  function note(error: unknown, event: EventName): void {
    const noted = asAgentError(error);
    remember(noted);
    log('warn', event, {
      tunnel: tunnelId,
      fileSystem: plan.fileSystemId,
      code: noted.code,
      error: noted.message,
    });
  }

  const needsCertificate = plan.spec.iam || plan.spec.accessPoint !== null;
  const rotation = createRotation(
    {
      clock,
      log,
      random: ports.random,
      longestUseMs: ports.renewalMs,
      make: makeCertificate,
      async use(certificate) {
        await announce(certificate);
        handOver();
      },
      failed: remember,
    },
    { tunnel: tunnelId, fileSystem: plan.fileSystemId },
  );

  async function makeCertificate(): Promise<CertificateReply> {
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

  async function announce(certificate: CertificateReply | null): Promise<void> {
    const client =
      certificate === null
        ? null
        : { certificatePem: certificate.certificatePem, privateKeyPem: await ports.privateKeyPem() };
    if (closed) return;
    const tls = { trustedRootsPem: plan.trustedRootsPem, serverName: plan.serverName, client };
    workers.openTunnel(tunnelId, tls, plan.dialTimeoutMs);
    known = true;
    learnRole();
  }

  /** What cannot be had yet is asked for until it is there; meanwhile connections wait. */
  async function establishInBackground(): Promise<void> {
    const made = inherited?.certificate ?? null;
    if (needsCertificate) rotation.begin(made);
    if (needsCertificate && made === null) return;
    await announce(made);
    handOver();
  }

  async function establish(report: (phase: string) => void): Promise<void> {
    report(
      plan.spec.mountTargetIp === null ? `resolving ${plan.dnsName}` : `using ${plan.spec.mountTargetIp}`,
    );
    const searching = findAddresses();
    if (plan.spec.iam) report('credentials');
    const [found, made] = await Promise.all([searching, needsCertificate ? makeCertificate() : null]);
    if (made !== null) rotation.begin(made);
    await announce(made);
    report(`connecting ${showEndpoints(found, plan.mountTargetPort)}`);
    try {
      upstream = await workers.probe(tunnelId, asEndpoints(found));
    } catch (error) {
      throw explainUnreachable(error, found);
    }
    report(`${upstream.tlsVersion} with ${upstream.address}`);
  }

  async function findIdentity(): Promise<IdentityFacts | null> {
    const known = knownIdentity();
    if (credentials === null || known === null || known.arn !== null) return known;
    const { region, dnsSuffix } = plan;
    const found = await ports.identities
      .whoami(caller, { credentials, region, dnsSuffix })
      .catch(() => known);
    arn = found.arn;
    return found;
  }

  function knownIdentity(): IdentityFacts | null {
    const known = rotation.current()?.identity ?? null;
    return known === null ? null : { ...known, arn: known.arn ?? arn };
  }

  /** The instance knows its own role without asking STS: `status` can name it. */
  function learnRole(): void {
    if (rotation.current()?.identity?.source.startsWith('metadata:') === true) void findIdentity();
  }

  function countSessions(): number {
    let count = sessions.size + waiting.length;
    for (const carried of orphanSessions.values()) count += carried;
    return count;
  }

  function tellIfQuiet(): void {
    if (countSessions() === 0 && !closed) ports.onQuiet(tunnel);
  }

  function closeSession({ sessionId, cause, bytesUp, bytesDown }: ClosedSession): void {
    sessions.delete(sessionId);
    if (bytesDown > 0) answered = true;
    else if (bytesUp > 0 && (cause === 'upstream-end' || cause === 'upstream-reset')) turnedAway = true;
    const broken = describeBreak(cause, upstream?.address ?? plan.dnsName);
    if (broken !== null) remember(broken);
    const byKernel = cause === 'local-end' || cause === 'local-reset';
    hungUpAtMs = byKernel && countSessions() === 0 ? clock.nowMs() : null;
    tellIfQuiet();
  }

  const tunnel: Tunnel = {
    plan,
    id: tunnelId,
    server: '127.0.0.1',
    port: listener.port,
    listener: listener.server,
    phase: 'opening',
    openSessions: countSessions,
    establish: (signal: AbortSignal, report: (phase: string) => void) => abortable(signal, establish(report)),
    establishInBackground: () => void establishInBackground(),
    look: () => rotation.look(),
    hungUpAtMs: () => hungUpAtMs,
    wasTurnedAway: () => turnedAway && !answered,
    receive(message: WorkerToAgent): void {
      switch (message.kind) {
        case 'session.connected':
          upstream = message.upstream;
          break;
        case 'session.failed':
          remember(fromErrorMessage(message.error));
          break;
        case 'session.closed':
          closeSession(message);
          break;
        case 'endpoints.wanted':
          findEndpoints().then(
            (endpoints) => workers.updateEndpoints(tunnelId, endpoints),
            (error: unknown) => note(error, 'name.unresolved'),
          );
          break;
      }
    },
    hearTraffic(report: TunnelState): void {
      traffic = noteTraffic(traffic, report, clock.monoMs());
    },
    takeBack(socket: Socket): void {
      waiting.push(socket);
      handOver();
    },
    setOrphanSessions(workerPid: number, count: number): void {
      if (count > 0) orphanSessions.set(workerPid, count);
      else if (orphanSessions.delete(workerPid)) tellIfQuiet();
    },
    workerLost(): void {
      total.bytesUp += traffic.bytesUp;
      total.bytesDown += traffic.bytesDown;
      traffic = noTraffic;
      sessions.clear();
    },
    workerReady: () => handOver(),
    findIdentity,
    status(): MountStatus {
      const { isDialling, ...now } = readTraffic(traffic, clock.monoMs());
      const condition = decideCondition({ isDialling, ...now }, waiting.length);
      const isServing = tunnel.phase === 'mounted' || tunnel.phase === 'tunnel';
      return {
        mountId: tunnelId,
        fileSystemId: plan.fileSystemId,
        accessPointId: plan.spec.accessPoint,
        path: plan.spec.path,
        mountPoint: plan.mountPoint,
        state: isServing && condition !== 'fine' ? condition : tunnel.phase,
        tls: true,
        iam: plan.spec.iam,
        port: listener.port,
        dnsName: plan.dnsName,
        address: upstream?.address ?? null,
        tlsVersion: upstream?.tlsVersion ?? null,
        cipher: upstream?.cipher ?? null,
        serverCertificateExpiresAtMs: upstream?.certificateExpiresAtMs ?? null,
        identity: knownIdentity(),
        clientCertificateExpiresAtMs: rotation.current()?.notAfterMs ?? null,
        sessions: countSessions(),
        reconnects: Math.max(0, accepted - 1),
        ...now,
        bytesUp: total.bytesUp + now.bytesUp,
        bytesDown: total.bytesDown + now.bytesDown,
        alarm: rotation.alarm(),
        lastError,
      };
    },
    bequeath: () => ({
      // Who has made a mount is not called any more.
      plan: tunnel.phase === 'mounting' ? plan : { ...plan, callerSocket: null },
      certificate: rotation.current(),
      upstream,
      total: { bytesUp: total.bytesUp + traffic.bytesUp, bytesDown: total.bytesDown + traffic.bytesDown },
      accepted,
      lastError,
    }),
    async release(): Promise<void> {
      listener.server.close();
      await Promise.all(admissions);
      await handOverWaiting().catch((error: unknown) => note(error, 'name.unresolved'));
      await workers.settle();
    },
    async close(): Promise<void> {
      if (closed) return;
      closed = true;
      known = false;
      rotation.close();
      retry?.cancel();
      for (const socket of waiting.splice(0)) socket.destroy();
      await Promise.all([listener.close(), workers.closeTunnel(tunnelId)]);
      log('info', 'listener.closed', { tunnel: tunnelId, port: listener.port });
    },
  };
  return tunnel;
}

/** The end of a session as an error for people; null when it was no failure of the mount target's side. */
function describeBreak(cause: SessionEnd, where: string): AgentError | null {
  if (cause === 'stalled')
    return new AgentError('nfs.timeout', `${where} owed an answer for too long: the connection was given up`);
  if (cause === 'upstream-reset') return new AgentError('target.closed', `${where} broke the connection`);
  return null;
}

/** Errors: `interrupted` when `signal` aborts; the work goes on, unheard. */
export function abortable<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(new AgentError('interrupted', 'the caller went away'));
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
