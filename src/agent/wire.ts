import { getFips } from 'node:crypto';
import { createServer } from 'node:net';
import { hostname, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { parseConfig } from '../core/config.ts';
import { asAgentError } from '../core/errors.ts';
import type { AgentToIdentity, IdentityToAgent } from '../core/identity-protocol.ts';
import { planBudgetBytes } from '../core/memory-budget.ts';
import type { Log } from '../core/ports.ts';
import { smallHeap } from '../core/small-heap.ts';
import { version } from '../core/version.ts';
import { parseWorkerMessage } from '../core/worker-message.ts';
import type { AgentToWorker, WorkerToAgent } from '../core/worker-protocol.ts';
import { callCaller, removeCallerSocket, removeForgottenCallerSockets } from '../host/caller-socket.ts';
import { startChild } from '../host/children.ts';
import { systemClock } from '../host/clock.ts';
import { readConfigFiles } from '../host/config-files.ts';
import { resolveCanonicalName, resolveName } from '../host/dns.ts';
import { readMemoryLimit } from '../host/memory-limit.ts';
import { readMountTables } from '../host/mount-tables.ts';
import { readNetworks } from '../host/networks.ts';
import { generatePrivateKey } from '../host/private-key.ts';
import { readWaitedMs } from '../host/process-usage.ts';
import {
  readStateFiles,
  removeStateFile,
  removeUnfinishedStateFiles,
  setAsideStateFile,
  workerSocketPath,
  writeStateFile,
} from '../host/runtime-dir.ts';
import { findSocketOwners } from '../host/socket-owners.ts';
import { readTrustedRoots } from '../host/trusted-roots.ts';
import { openGroupSocket } from '../host/unix-socket.ts';
import { readAllowedUids, readHomeDirectory, readUnprivilegedUser } from '../host/users.ts';
import { createMountReport, type MountReport } from './cloudwatch.ts';
import { createIdentities } from './identities.ts';
import { createLocalUsersCheck } from './local-users.ts';
import { createMounts, type Mounts } from './mounts.ts';
import { createOrphans } from './orphans.ts';
import type { FromSuccessor, Successor, ToSuccessor } from './takeover.ts';
import { createWorkers, type Workers } from './workers.ts';

export interface Agent {
  mounts: Mounts;
  report: MountReport;
  workers: Workers;
  /** Makes the key of all client certificates, in the thread pool; waits for nothing. */
  makePrivateKey(): void;
  /** Uses the key of the agent before this one. */
  inheritPrivateKey(pem: string): void;
  privateKeyPem(): Promise<string>;
  /** Starts the program that goes on in our place: `agent.cjs` of this version or another. */
  startSuccessor(program: string, onDemand: boolean): Successor;
  /** Ends the children that serve nobody; workers with sessions go on without us. */
  close(): void;
}

/** Builds the edges and hands them out: the only place that knows both the agent's parts and the machine. */
export async function wireAgent(
  runtimeDirectory: string,
  log: Log,
  environment: Readonly<Record<string, string | undefined>>,
): Promise<Agent> {
  const readConfig = async () => parseConfig(await readConfigFiles(environment));
  const bundles = dirname(process.argv[1] ?? '');
  const childEnvironment = { PATH: environment['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin' };
  const { workerUser, stallTimeoutMs, renewalMs, maxConnections, localUsers } = await readConfig();
  const dropTo = await readUnprivilegedUser(workerUser);

  // In memory only.
  let privateKey: Promise<string> | null = null;
  const privateKeyPem = () => {
    privateKey ??= generatePrivateKey();
    return privateKey;
  };

  const workers = createWorkers(
    {
      clock: systemClock,
      log,
      random: Math.random,
      startWorker: () =>
        startChild<AgentToWorker, WorkerToAgent>(join(bundles, 'worker.cjs'), {
          environment: childEnvironment,
          nodeOptions: smallHeap,
          distrust: { parse: parseWorkerMessage, messagesPerSecond: 2_000, memoryBytes: 64 * 2 ** 20 },
        }),
      readWaitedMs,
      startMessage: () => ({
        kind: 'start',
        dropTo,
        budgetBytes: planBudgetBytes(totalmem(), readMemoryLimit()),
        stallTimeoutMs,
        maxConnections,
        callbackSocket: workerSocketPath(runtimeDirectory),
      }),
    },
    {
      onMessage(message) {
        if (!('tunnelId' in message)) return;
        mounts
          .list()
          .find(({ id }) => id === message.tunnelId)
          ?.receive(message);
      },
      onTraffic(reports) {
        const served = new Map(mounts.list().map((tunnel) => [tunnel.id, tunnel]));
        for (const report of reports) served.get(report.tunnelId)?.hearTraffic(report);
      },
      onLost: () => {
        for (const tunnel of mounts.list()) tunnel.workerLost();
      },
      onReturned(tunnelId, socket) {
        const tunnel = mounts.list().find(({ id }) => id === tunnelId);
        if (tunnel === undefined) socket.destroy();
        else tunnel.takeBack(socket);
      },
      onReady: () => {
        orphans.retireAll();
        for (const tunnel of mounts.list()) tunnel.workerReady();
      },
    },
  );
  const orphans = createOrphans({
    clock: systemClock,
    log,
    // Without it workers of an earlier agent go on and are not found: no reason to leave the mounts alone.
    server: await openGroupSocket(workerSocketPath(runtimeDirectory), dropTo?.gid ?? null).catch(
      (error: unknown) => {
        log('error', 'worker-socket.unusable', { error: asAgentError(error).message });
        return createServer();
      },
    ),
    mayRetire: () => workers.status().state === 'up',
    onSessions(tunnelId, workerPid, sessions) {
      const tunnel = mounts.list().find(({ id }) => id === tunnelId);
      tunnel?.setOrphanSessions(workerPid, sessions);
      return tunnel !== undefined;
    },
  });
  const identities = createIdentities({
    clock: systemClock,
    log,
    home: readHomeDirectory(),
    startIdentity: () =>
      startChild<AgentToIdentity, IdentityToAgent>(join(bundles, 'identity.cjs'), {
        environment: childEnvironment,
      }),
  });
  const allowedUids = await readAllowedUids(localUsers, (name) =>
    log('warn', 'config.warning', { warning: `allow_local_users: there is no user ${name}` }),
  );
  let sessions = 0;
  const mounts = createMounts({
    nextSessionId: () => ++sessions,
    version,
    hostName: hostname(),
    clock: systemClock,
    log,
    random: Math.random,
    resolveName,
    resolveCanonicalName,
    readNetworks,
    cryptoIsFips: () => getFips() === 1,
    readConfig,
    readTrustedRoots,
    workers,
    identities,
    localUsers: createLocalUsersCheck({ clock: systemClock, log, allowedUids, findSocketOwners }),
    privateKeyPem,
    renewalMs,
    readMountTables,
    callers: {
      call: (name) => callCaller(runtimeDirectory, name),
      remove: (name) => removeCallerSocket(runtimeDirectory, name),
    },
    stateFiles: {
      write: (mountId, text) => writeStateFile(runtimeDirectory, mountId, text),
      remove: (mountId) => removeStateFile(runtimeDirectory, mountId),
      read: async () => {
        await removeUnfinishedStateFiles(runtimeDirectory);
        await removeForgottenCallerSockets(runtimeDirectory, systemClock.nowMs());
        return readStateFiles(runtimeDirectory);
      },
      setAside: (path) => setAsideStateFile(runtimeDirectory, path),
    },
  });
  return {
    mounts,
    report: createMountReport({ clock: systemClock, log, readConfig, identities }),
    workers,
    makePrivateKey() {
      privateKeyPem().catch(() => {});
    },
    inheritPrivateKey(pem) {
      privateKey = Promise.resolve(pem);
    },
    privateKeyPem,
    startSuccessor: (program, onDemand) =>
      startChild<ToSuccessor, FromSuccessor>(program, {
        argv: ['--successor', ...(onDemand ? ['--on-demand'] : [])],
        nodeOptions: smallHeap,
        environment: { ...environment },
        detached: true,
      }),
    close() {
      identities.close();
    },
  };
}
