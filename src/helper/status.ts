import { type AgentStatus, protocolVersion } from '../core/control-protocol.ts';
import { AgentError, asAgentError } from '../core/errors.ts';
import { chooseMountState, type MountState } from '../core/mount-state.ts';
import { parseMountInfo } from '../core/mountinfo.ts';
import {
  type AgentReport,
  reportAgent,
  reportRecords,
  reportVersion,
  type StatusReport,
} from '../core/status-report.ts';
import { version } from '../core/version.ts';
import { readOwnMountTable } from '../host/own-mounts.ts';
import { readStateFiles } from '../host/runtime-dir.ts';
import { agentDirectory, type Caller } from './caller.ts';
import type { AgentConnection } from './control-client.ts';
import { converse, receiveAnswer } from './conversation.ts';
import { findAgent, findAgentIn, findOtherAgents, otherDirectories } from './start-agent.ts';

/** The mounts that agents serve, those of other network namespaces included. Starts none. Errors: `agent.unreachable`, `agent.protocol`. */
export async function readServedMounts(caller: Caller): Promise<AgentStatus['mounts']> {
  const own = await findAgent(caller);
  const agents = [...(own === null ? [] : [own]), ...(await findOtherAgents(caller))];
  const statuses = await Promise.all(agents.map((agent) => askStatus(agent, caller)));
  return statuses.flatMap(({ mounts }) => mounts);
}

/**
 * What there is to know of all mounts, also of those whose agent does not answer. Starts no agent, touches no mount.
 *
 * Errors: `permission.not-root`, `agent.protocol`, `interrupted`.
 */
export async function readStatusReport(caller: Caller): Promise<StatusReport> {
  const entries = parseMountInfo(readOwnMountTable(caller.files));

  async function read(
    directory: string,
    connect: () => Promise<AgentConnection | null>,
  ): Promise<AgentReport> {
    const agent = await connect();
    if (agent === null) return reportRecords('absent', version, await readRecords(directory), entries);
    try {
      return reportAgent(await askStatus(agent, caller), entries);
    } catch (thrown) {
      if (asAgentError(thrown).code !== 'agent.unreachable') throw thrown;
      return reportRecords('silent', version, await readRecords(directory), entries);
    }
  }

  const [own, ...others] = await Promise.all([
    read(agentDirectory(caller), () => findAgent(caller)),
    ...otherDirectories(caller).map((directory) => read(directory, () => findAgentIn(directory))),
  ]);
  const otherNetworkNamespaces = others.filter(
    ({ agent, mounts }) => agent !== 'absent' || mounts.length > 0,
  );
  return { schemaVersion: reportVersion, ...own!, otherNetworkNamespaces };
}

function askStatus(agent: AgentConnection, caller: Caller): Promise<AgentStatus> {
  return converse(agent, caller, async () => {
    agent.send({ kind: 'status', version: protocolVersion });
    return (await receiveAnswer(agent, 'status', caller.limits.closeMs)).status;
  });
}

/** What an agent has recorded; a damaged record holds nothing, and no directory none. Errors: `permission.not-root`. */
async function readRecords(directory: string): Promise<MountState[]> {
  const files = await readStateFiles(directory).catch((error: AgentError) => {
    if ((error.cause as NodeJS.ErrnoException).code !== 'EACCES') return [];
    throw new AgentError('permission.not-root', `only root can read the records in ${directory}`, {}, error);
  });
  return files.flatMap(({ records }) => chooseMountState(records).state ?? []);
}
