import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { AgentError, asAgentError } from '../core/errors.ts';
import type { AccountFacts } from './access.ts';
import type { AccessPoint } from './access-point.ts';
import type { Multiplexing } from './bind.ts';
import { BoundClients } from './bound-clients.ts';
import { openCredentialIssuer } from './credentials.ts';
import type { TargetEvent } from './events.ts';
import { type Backend, type BackendRoot, findGanesha, openBackend } from './ganesha.ts';
import {
  type Backends,
  type ListenAddress,
  type ListenerParts,
  openListener,
  type PolicySource,
} from './listener.ts';
import { openMetadataService } from './metadata.ts';
import { type Policy, parsePolicy } from './policy.ts';
import { openServerIdentity } from './server-certificate.ts';

/** What the mount target pretends to be, and where. */
export interface TargetOptions extends AccountFacts {
  roleName: string;
  instanceId: string;
  /** Directory null = one inside the state directory. */
  fileSystems: readonly { id: string; directory: string | null }[];
  accessPoints: readonly AccessPoint[];
  policyFile: string | null;
  listen: readonly ListenAddress[];
  metadata: { address: string; port: number; tokenOptional: boolean };
  /** Null = a temporary one, removed by `close`. */
  stateDirectory: string | null;
  credentialsLifetimeMs: number;
  /** What clients that bind are told about having more connections. */
  multiplexing: Multiplexing;
  /** What one client connection may carry, both directions together; null = anything. */
  limitBytesPerSecond: number | null;
  onEvent: (event: TargetEvent) => void;
  /** Epoch milliseconds; every decision about time uses it. */
  nowMs: () => number;
}

/** A running mount target. */
export interface Target {
  caFile: string;
  metadataUrl: string;
  /** In the order of `TargetOptions.listen`, with the ports that were bound. */
  listening: readonly { address: string; port: number }[];
  /** Reads the policy file now. Errors: `config.*`; the policy in force then stays. */
  reloadPolicy(): void;
  close(): Promise<void>;
}

/**
 * Opens a local EFS mount target: TLS and plain NFS on the same addresses, NFS-Ganesha behind them,
 * and the instance metadata service beside them.
 *
 * Errors: `permission.not-root`, `nfs.program-missing`, `nfs.failed`, `port.taken`, `config.*`, `runtime-dir.unusable`;
 * whatever had been opened is closed again.
 */
export async function openTarget(options: TargetOptions): Promise<Target> {
  if (process.getuid?.() !== 0) {
    throw new AgentError(
      'permission.not-root',
      'the mount target must run as root: its NFS server acts for every user',
    );
  }
  const ganesha = findGanesha(process.env['PATH'] ?? '');
  const undo: (() => Promise<void> | void)[] = [];
  const close = async () => {
    for (const step of undo.splice(0).reverse()) await step();
  };
  try {
    const stateDirectory = openStateDirectory(options.stateDirectory, undo);
    const policy = openPolicy(options);
    const identity = openServerIdentity(stateDirectory, options.region, options.dnsSuffix, options.nowMs());
    const issuer = openCredentialIssuer({
      ...options,
      stateDirectory,
      lifetimeMs: options.credentialsLifetimeMs,
    });
    const backends = createBackends(ganesha, stateDirectory);
    undo.push(backends.close);
    const directories = new Map(
      options.fileSystems.map(({ id, directory }) => [id, makeExport(stateDirectory, id, directory)]),
    );
    await Promise.all(
      [...directories].map(([name, directory]) => backends.open({ name, directory, user: null })),
    );

    const metadata = await openMetadataService({
      ...options.metadata,
      instance: describeInstance(options),
      issuer,
      nowMs: options.nowMs,
    });
    undo.push(metadata.close);
    const { accessPoints, onEvent, nowMs } = options;
    const parts: ListenerParts = {
      account: options,
      identity,
      issuer,
      policy,
      directories,
      accessPoints,
      backends,
      boundClients: new BoundClients(options.multiplexing),
      limitBytesPerSecond: options.limitBytesPerSecond,
      onEvent,
      nowMs,
    };
    const listening: { address: string; port: number }[] = [];
    for (const listen of options.listen) {
      const listener = await openListener(listen, parts);
      undo.push(listener.close);
      listening.push({ address: listen.address, port: listener.port });
    }
    return {
      caFile: identity.caFile,
      metadataUrl: metadata.url,
      listening,
      reloadPolicy: policy.reload,
      close,
    };
  } catch (thrown) {
    await close();
    throw thrown;
  }
}

function openStateDirectory(wanted: string | null, undo: (() => void)[]): string {
  try {
    if (wanted !== null) {
      mkdirSync(wanted, { recursive: true, mode: 0o700 });
      return resolve(wanted);
    }
    const temporary = mkdtempSync(join(tmpdir(), 'efs-agent-target-'));
    undo.push(() => rmSync(temporary, { recursive: true, force: true }));
    return temporary;
  } catch (thrown) {
    const why = thrown instanceof Error ? thrown.message : String(thrown);
    throw new AgentError(
      'runtime-dir.unusable',
      `the state directory cannot be used: ${why}`,
      { hint: 'Name another one with --state-dir.' },
      thrown,
    );
  }
}

function makeExport(stateDirectory: string, id: string, directory: string | null): string {
  const path = resolve(directory ?? join(stateDirectory, 'fs', id));
  try {
    if (mkdirSync(path, { recursive: true }) !== undefined) chmodSync(path, 0o755);
  } catch (thrown) {
    const why = thrown instanceof Error ? thrown.message : String(thrown);
    throw new AgentError(
      'runtime-dir.unusable',
      `the directory of ${id} cannot be used: ${why}`,
      { hint: 'Name another directory.' },
      thrown,
    );
  }
  return path;
}

function describeInstance(options: TargetOptions) {
  const { region, partition, accountId, instanceId, roleName } = options;
  return { region, partition, accountId, instanceId, roleName, hostName: hostname(), localIp: '127.0.0.1' };
}

/** The policy file is read at every new connection; one that cannot be read leaves the last good one in force. */
function openPolicy({ policyFile, onEvent }: TargetOptions): PolicySource {
  if (policyFile === null) return { current: () => null, reload: () => {} };
  let policy = readPolicy(policyFile);
  const reload = () => {
    policy = readPolicy(policyFile);
  };
  return {
    reload,
    current: () => {
      try {
        reload();
      } catch (thrown) {
        const { code, message } = asAgentError(thrown);
        onEvent({ eventName: 'PolicyRejected', code, message });
      }
      return policy;
    },
  };
}

function readPolicy(file: string): Policy {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (thrown) {
    const why = thrown instanceof Error ? thrown.message : String(thrown);
    throw new AgentError('config.unreadable', `the policy file cannot be read: ${why}`, { file }, thrown);
  }
  return parsePolicy(text);
}

function createBackends(ganesha: string, stateDirectory: string): Backends {
  const opened = new Map<string, Promise<Backend>>();
  const start = (root: BackendRoot): Promise<Backend> => {
    const forget = () => opened.delete(root.name);
    const starting = openBackend(ganesha, root, stateDirectory);
    opened.set(root.name, starting);
    starting.then(({ ended }) => ended.then(forget), forget);
    return starting;
  };
  return {
    open: (root) => opened.get(root.name) ?? start(root),
    close: async () => {
      const settled = await Promise.allSettled(opened.values());
      await Promise.all(settled.map((one) => (one.status === 'fulfilled' ? one.value.close() : undefined)));
    },
  };
}
