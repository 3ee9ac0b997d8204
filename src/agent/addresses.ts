import { isIPv4 } from 'node:net';
import { type LocalNetwork, orderByNearness } from '../core/endpoint.ts';
import { AgentError, asAgentError } from '../core/errors.ts';
import type { Clock, ResolveName } from '../core/ports.ts';
import type { Caller, Identities } from './identities.ts';

/** Addresses of a mount target, the nearest first, and who told them. */
export interface FoundAddresses {
  list: string[];
  /** `option`: mounttargetip; `name`: DNS; `api`: DescribeMountTargets. */
  by: 'option' | 'name' | 'api';
}

export interface AddressPlan {
  fileSystemId: string;
  region: string;
  dnsSuffix: string;
  dnsName: string;
  /** Ask the EFS API when the name has no address. */
  askApi: boolean;
  spec: {
    mountTargetIp: string | null;
    zone: string | null;
    awsProfile: string | null;
    awsCredsUri: string | null;
    roleArn: string | null;
    jwtPath: string | null;
  };
}

export interface AddressPorts {
  clock: Clock;
  resolveName: ResolveName;
  readNetworks(): LocalNetwork[];
  identities: Pick<Identities, 'mountTargets'>;
}

/** How long addresses are used without asking again, in milliseconds. */
const lifeMs = { name: 10_000, api: 60_000 } as const;
/** How long an answer is waited for where there are addresses from before: a resolver that hangs does so for many seconds. */
const patienceMs = 500;

/**
 * Finds the addresses of a mount target: the one that was given, else those of its name, else, where allowed, those
 * the EFS API knows.
 *
 * The last known ones serve while nobody answers, or not soon; `onStale` is told then.
 *
 * Errors: `dns.*` when there are none, with the reason why the API had none either. Source: specification 3.4.
 */
export function createAddressFinder(
  ports: AddressPorts,
  plan: AddressPlan,
  caller: Caller,
  onStale: (error: unknown) => void,
): () => Promise<FoundAddresses> {
  const { spec } = plan;
  if (spec.mountTargetIp !== null) {
    const given: FoundAddresses = { list: [spec.mountTargetIp], by: 'option' };
    return () => Promise.resolve(given);
  }
  type Asked = FoundAddresses & { by: 'name' | 'api' };
  let known: (Asked & { atMonoMs: number }) | null = null;
  let asking: Promise<Asked> | null = null;

  async function askAndKeep(): Promise<Asked> {
    try {
      const found = await ask();
      known = { ...found, atMonoMs: ports.clock.monoMs() };
      return found;
    } finally {
      asking = null;
    }
  }

  /** Errors: `dns.failed` after `patienceMs`, unless it is given up before. */
  function losePatience(): { late: Promise<never>; giveUp(): void } {
    let timer = { cancel() {} };
    const late = new Promise<never>((_, reject) => {
      const message = `nobody has said within ${patienceMs} ms what "${plan.dnsName}" is: its last known addresses serve`;
      timer = ports.clock.schedule(patienceMs, () => reject(new AgentError('dns.failed', message)));
    });
    return { late, giveUp: () => timer.cancel() };
  }

  async function ask(): Promise<Asked> {
    try {
      const list = await resolveWithDot(ports.resolveName, plan.dnsName);
      return { list: orderByNearness(list, ports.readNetworks()), by: 'name' };
    } catch (error) {
      if (!plan.askApi) throw error;
      const { list } = await askApi(asAgentError(error));
      return { list, by: 'api' };
    }
  }

  async function askApi(unresolved: AgentError): Promise<{ list: string[] }> {
    const { fileSystemId, region, dnsSuffix } = plan;
    const { zone, awsProfile, awsCredsUri, roleArn, jwtPath } = spec;
    const credentials = { awsProfile, awsCredsUri, roleArn, jwtPath };
    try {
      const request = { fileSystemId, zone, region, dnsSuffix, credentials };
      const { addresses } = await ports.identities.mountTargets(caller, request);
      return { list: addresses };
    } catch (thrown) {
      const { message, details } = asAgentError(thrown);
      throw new AgentError(
        unresolved.code,
        `${unresolved.message}; asking the EFS API for its address failed too: ${message}`,
        { ...unresolved.details, ...(typeof details['hint'] === 'string' ? { hint: details['hint'] } : {}) },
        thrown,
      );
    }
  }

  return async () => {
    if (known !== null && ports.clock.monoMs() - known.atMonoMs < lifeMs[known.by]) return known;
    asking ??= askAndKeep();
    if (known === null) return asking;
    const { late, giveUp } = losePatience();
    try {
      return await Promise.race([asking, late]);
    } catch (error) {
      onStale(error);
      return known;
    } finally {
      giveUp();
    }
  };
}

/** Why an address that no name stands behind could not be reached, in the words of the reference. */
export function explainUnreachable(error: unknown, found: FoundAddresses): AgentError {
  const known = asAgentError(error);
  if (found.by === 'name' || !known.code.startsWith('target.')) return known;
  return new AgentError(
    known.code,
    `Cannot connect to file system mount target ip address ${found.list.join(', ')}: ${known.message}`,
    known.details,
    known,
  );
}

/** The addresses with their port, for people. */
export function showEndpoints({ list }: Pick<FoundAddresses, 'list'>, port: number): string {
  return list.map((address) => `${asServer(address)}:${port}`).join(', ');
}

/** An address as part of `<server>:<path>`. */
export function asServer(address: string): string {
  return isIPv4(address) ? address : `[${address}]`;
}

/** A trailing dot keeps a search list out. Errors: those of the name as it is. */
async function resolveWithDot(resolveName: ResolveName, name: string): Promise<string[]> {
  try {
    return await resolveName(name);
  } catch (error) {
    if (name.endsWith('.')) throw error;
    return resolveName(`${name}.`).catch(() => {
      throw error;
    });
  }
}
