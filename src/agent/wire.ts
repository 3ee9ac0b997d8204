import { generateKeyPair } from 'node:crypto';
import { homedir, hostname, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { parseConfig } from '../core/config.ts';
import type { AgentToIdentity, IdentityToAgent } from '../core/identity-protocol.ts';
import type { Log } from '../core/ports.ts';
import { version } from '../core/version.ts';
import type { AgentToWorker, WorkerToAgent } from '../core/worker-protocol.ts';
import { startChild } from '../host/children.ts';
import { systemClock } from '../host/clock.ts';
import { readConfigFiles } from '../host/config-files.ts';
import { resolveCanonicalName, resolveName } from '../host/dns.ts';
import { readMountTables } from '../host/mount-tables.ts';
import { readStateFiles, removeStateFile, setAsideStateFile, writeStateFile } from '../host/runtime-dir.ts';
import { readTrustedRoots } from '../host/trusted-roots.ts';
import { readUnprivilegedUser } from '../host/users.ts';
import { createIdentities } from './identities.ts';
import { createMounts, type Mounts } from './mounts.ts';
import { createWorkers, type Workers } from './workers.ts';

export interface Agent {
  mounts: Mounts;
  workers: Workers;
  /** Ends the children that serve nobody; workers with sessions go on without us. */
  close(): void;
}

/** Bytes all sessions of a worker may hold together: a tenth of the memory, within sensible bounds. */
const budgetBytes = Math.min(256, Math.max(32, Math.floor(totalmem() / 10 / 2 ** 20))) * 2 ** 20;

/** Builds the edges and hands them out: the only place that knows both the agent's parts and the machine. */
export async function wireAgent(
  runtimeDirectory: string,
  log: Log,
  environment: Readonly<Record<string, string | undefined>>,
): Promise<Agent> {
  const readConfig = async () => parseConfig(await readConfigFiles(environment));
  const bundles = dirname(process.argv[1] ?? '');
  const childEnvironment = { PATH: environment['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin' };
  const dropTo = await readUnprivilegedUser((await readConfig()).workerUser);

  // Made before it is needed, in the thread pool; lives in memory only.
  const privateKey = promisify(generateKeyPair)('rsa', {
    modulusLength: 3072,
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  });
  privateKey.catch(() => {});

  const workers = createWorkers(
    {
      clock: systemClock,
      log,
      random: Math.random,
      startWorker: () =>
        startChild<AgentToWorker, WorkerToAgent>(join(bundles, 'worker.cjs'), [], childEnvironment),
      startMessage: () => ({ kind: 'start', dropTo, budgetBytes }),
    },
    {
      onMessage(message) {
        for (const tunnel of mounts.list()) {
          if (!('tunnelId' in message) || message.tunnelId === tunnel.id) tunnel.receive(message);
        }
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
        for (const tunnel of mounts.list()) tunnel.workerReady();
      },
    },
  );
  const identities = createIdentities({
    clock: systemClock,
    log,
    home: homedir(),
    startIdentity: () =>
      startChild<AgentToIdentity, IdentityToAgent>(join(bundles, 'identity.cjs'), [], childEnvironment),
  });
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
    readConfig,
    readTrustedRoots,
    workers,
    identities,
    privateKeyPem: async () => (await privateKey).privateKey,
    readMountTables,
    stateFiles: {
      write: (mountId, text) => writeStateFile(runtimeDirectory, mountId, text),
      remove: (mountId) => removeStateFile(runtimeDirectory, mountId),
      read: () => readStateFiles(runtimeDirectory),
      setAside: (mountId) => setAsideStateFile(runtimeDirectory, mountId),
    },
  });
  return {
    mounts,
    workers,
    close() {
      identities.close();
    },
  };
}
