import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { withoutConnection } from '../core/control-protocol.ts';
import { AgentError, type FaultCode } from '../core/errors.ts';
import { planMountId } from '../core/mount-state.ts';
import {
  type AddressPorts,
  asServer,
  createAddressFinder,
  explainUnreachable,
  type FoundAddresses,
  showEndpoints,
} from './addresses.ts';
import { abortable, type Mount, type TunnelPlan } from './tunnel.ts';

/**
 * A mount without `tls`: the kernel talks to the mount target itself, and there is nothing of ours on the way that
 * could fail. The agent finds the address, sees whether it answers, and keeps the record.
 */
export function createDirect(ports: AddressPorts, plan: TunnelPlan): Mount {
  const caller = { environment: plan.environment, metadataEndpoint: plan.metadataEndpoint };
  const findAddresses = createAddressFinder(ports, plan, caller, () => {});
  const id = planMountId(plan.fileSystemId, plan.mountPoint ?? '/', null);
  let address: string | null = null;
  let server = plan.dnsName;

  async function establish(report: (phase: string) => void): Promise<void> {
    report(
      plan.spec.mountTargetIp === null ? `resolving ${plan.dnsName}` : `using ${plan.spec.mountTargetIp}`,
    );
    const found = await findAddresses();
    report(`connecting ${showEndpoints(found, plan.mountTargetPort)}, without TLS`);
    address = await findAnswering(found, plan);
    // A name whose first address is dead would lead mount.nfs4 there.
    server = found.by === 'name' && address === found.list[0] ? plan.dnsName : asServer(address);
  }

  const direct: Mount = {
    plan,
    id,
    get server() {
      return server;
    },
    port: null,
    phase: 'opening',
    openSessions: () => 0,
    establish: (signal, report) => abortable(signal, establish(report)),
    findIdentity: async () => null,
    wasTurnedAway: () => false,
    status: () => ({
      mountId: id,
      fileSystemId: plan.fileSystemId,
      accessPointId: null,
      path: plan.spec.path,
      mountPoint: plan.mountPoint,
      state: direct.phase,
      tls: false,
      iam: false,
      port: null,
      dnsName: plan.dnsName,
      address,
      ...withoutConnection,
    }),
    close: async () => {},
  };
  return direct;
}

/** How long an address is waited for before the next one is tried beside it, in milliseconds. RFC 8305 section 8. */
const staggerMs = 250;

/**
 * The first address that accepts a connection: mount.nfs4 alone would be silent for minutes.
 *
 * Errors: `target.*`, that of the first address.
 */
async function findAnswering(found: FoundAddresses, plan: TunnelPlan): Promise<string> {
  const answered = new AbortController();
  const attempts = found.list.map(async (address, index) => {
    await delay(index * staggerMs, undefined, { signal: answered.signal });
    await tryConnect(address, plan.mountTargetPort, plan.dialTimeoutMs, answered.signal);
    return address;
  });
  try {
    return await Promise.any(attempts);
  } catch (error) {
    throw explainUnreachable((error as AggregateError).errors[0], found);
  } finally {
    answered.abort();
  }
}

const codes = new Map<string, FaultCode>([
  ['ECONNREFUSED', 'target.refused'],
  ['ABORT_ERR', 'target.silent'],
  ['ETIMEDOUT', 'target.silent'],
]);

/** Whether a port accepts a TCP connection; it is closed again at once. Errors: `target.*`. */
export async function tryConnect(
  address: string,
  port: number,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<void> {
  const socket = connect({ host: address, port });
  try {
    await once(socket, 'connect', { signal: AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]) });
  } catch (cause) {
    const { code = 'unknown error' } = cause as NodeJS.ErrnoException;
    const where = `${asServer(address)}:${port}`;
    const fault = codes.get(code) ?? 'target.unreachable';
    throw new AgentError(
      fault,
      fault === 'target.silent'
        ? `${where} did not answer within ${timeoutMs} ms`
        : fault === 'target.refused'
          ? `${where} refused the connection`
          : `${where} cannot be reached: ${code}`,
      { address, port },
      cause,
    );
  } finally {
    socket.on('error', () => {});
    socket.destroy();
  }
}
