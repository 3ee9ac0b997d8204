import { getFips } from 'node:crypto';
import { existsSync } from 'node:fs';
import { homedir, hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { createAddressFinder, type FoundAddresses } from '../agent/addresses.ts';
import { createIdentities, type Identities, type Caller as Whose } from '../agent/identities.ts';
import { decideRegion, planMount } from '../agent/plan.ts';
import type { TunnelPlan } from '../agent/tunnel.ts';
import { type Config, configuredSuffix, parseConfig } from '../core/config.ts';
import { pickEnvironment } from '../core/control-protocol.ts';
import { AgentError } from '../core/errors.ts';
import type {
  AgentToIdentity,
  CredentialsRequest,
  IdentityFacts,
  IdentityToAgent,
} from '../core/identity-protocol.ts';
import type { MountSpec } from '../core/mount-spec.ts';
import { version } from '../core/version.ts';
import type { Endpoint } from '../core/worker-protocol.ts';
import type { Caller } from '../helper/caller.ts';
import { startChild } from '../host/children.ts';
import { systemClock } from '../host/clock.ts';
import { readConfigFiles } from '../host/config-files.ts';
import { resolveCanonicalName, resolveName } from '../host/dns.ts';
import { readNetworks } from '../host/networks.ts';
import { generatePrivateKey } from '../host/private-key.ts';
import { readTrustedRoots } from '../host/trusted-roots.ts';
import { askMountTarget } from './client.ts';
import type { ProbeAnswer } from './nfs-probe.ts';
import type { Places } from './places.ts';
import { type Reached, reachEndpoints } from './reach.ts';

/**
 * What is looked into, and the facts several checks need: each is found once, by the code a mount runs, and without the
 * agent.
 */
export interface Subject {
  caller: Caller;
  places: Places;
  /** Null when no file system was named: then only the machine is looked into. */
  spec: MountSpec | null;
  config(): Promise<Config>;
  region(): Promise<string>;
  /** The zone this machine is in, as its metadata say. Errors: `metadata.unavailable`. */
  zone(): Promise<string>;
  plan(): Promise<TunnelPlan>;
  addresses(): Promise<FoundAddresses>;
  /** Each address of the mount target, and whether it accepts a connection. */
  reached(): Promise<Reached[]>;
  /** Those that do, the nearest first. Errors: `target.*` when none does. */
  endpoints(): Promise<Endpoint[]>;
  identity(): Promise<IdentityFacts>;
  /** A client certificate as the mount would present it, through that access point. */
  clientCertificate(accessPointId: string | null): Promise<{ certificatePem: string; privateKeyPem: string }>;
  /** What the mount target answers to the first question of the mount. Errors: as `askMountTarget`. */
  answer(): Promise<ProbeAnswer>;
  close(): void;
}

/** @param spec null for the machine alone. */
export function createSubject(caller: Caller, places: Places, spec: MountSpec | null): Subject {
  const environment = pickEnvironment(caller.environment);
  const bundles = dirname(caller.agentBundle());
  const identities: Identities = createIdentities({
    clock: systemClock,
    log: () => {},
    home: caller.environment['HOME'] ?? homedir(),
    startIdentity: () => {
      const program = join(bundles, 'identity.cjs');
      if (!existsSync(program))
        throw new AgentError('credentials.failed', `the program ${program} does not exist`, {
          hint: 'Install efs-agent again: the installation is not whole.',
        });
      return startChild<AgentToIdentity, IdentityToAgent>(program, {
        environment: { PATH: caller.environment['PATH'] },
      });
    },
  });
  const config = once(async () => parseConfig(await readConfigFiles(caller.environment)));
  const whose = async (): Promise<Whose> => ({
    environment,
    metadataEndpoint: (await config()).metadataEndpoint,
  });
  const plan = once(async () => {
    if (spec === null) throw new Error('no file system was named');
    const ports = {
      log: () => {},
      random: Math.random,
      version,
      hostName: hostname(),
      cryptoIsFips: () => getFips() === 1,
      readConfig: config,
      readTrustedRoots,
      resolveName,
      resolveCanonicalName,
      identities,
    };
    return (await planMount(ports, { spec, mountPoint: null, environment, callerSocket: null })).plan;
  });
  const region = once(async () =>
    spec === null
      ? decideRegion({ identities }, null, await whose(), await config(), null)
      : (await plan()).region,
  );
  const addresses = once(async () => {
    const planned = await plan();
    const ports = { clock: systemClock, resolveName, readNetworks, identities };
    return createAddressFinder(ports, planned, await whose(), () => {})();
  });
  const reached = once(async () => {
    const { mountTargetPort: port, dialTimeoutMs } = await plan();
    const endpoints = (await addresses()).list.map((address) => ({ address, port }));
    return reachEndpoints(endpoints, dialTimeoutMs);
  });
  const privateKeyPem = once(generatePrivateKey);
  const credentials: CredentialsRequest = {
    awsProfile: spec?.awsProfile ?? null,
    awsCredsUri: spec?.awsCredsUri ?? null,
    roleArn: spec?.roleArn ?? null,
    jwtPath: spec?.jwtPath ?? null,
  };

  const subject: Subject = {
    caller,
    places,
    spec,
    config,
    region,
    zone: once(async () => (await identities.instance(await whose())).availabilityZone),
    plan,
    addresses,
    reached,
    endpoints: once(async () => {
      const all = await reached();
      const answering = all.filter(({ error }) => error === null);
      if (answering.length === 0) throw all[0]!.error;
      return answering.map(({ endpoint }) => endpoint);
    }),
    identity: once(async () => {
      const where = await region();
      const dnsSuffix = configuredSuffix(await config(), where).value;
      return identities.whoami(await whose(), { credentials, region: where, dnsSuffix });
    }),
    async clientCertificate(accessPointId) {
      const { fileSystemId, region: where, dnsSuffix, commonName, clientInfo } = await plan();
      const key = await privateKeyPem();
      const { certificatePem } = await identities.certificate(await whose(), {
        fileSystemId,
        accessPointId,
        region: where,
        dnsSuffix,
        commonName,
        clientInfo,
        privateKeyPem: key,
        credentials: spec?.iam === true ? credentials : null,
      });
      return { certificatePem, privateKeyPem: key };
    },
    answer: once(() => askMountTarget(subject, spec?.accessPoint ?? null)),
    close: () => identities.close(),
  };
  return subject;
}

function once<T>(find: () => Promise<T>): () => Promise<T> {
  let found: Promise<T> | null = null;
  return () => {
    found ??= find();
    return found;
  };
}
