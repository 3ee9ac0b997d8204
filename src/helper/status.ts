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
import { isAgentStopped } from '../host/agent-pid.ts';
import { readOwnMountTable } from '../host/own-mounts.ts';
import { readStateFiles, statusSocketPath } from '../host/runtime-dir.ts';
import { agentDirectory, type Caller } from './caller.ts';
import { type AgentConnection, connectToAgent } from './control-client.ts';
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
    const agent = await connect().catch((error: unknown) => connectAsUser(directory, error));
    if (agent === null) return reportRecords('absent', version, await readRecords(directory), entries);
    try {
      // To wait for the answer of one that cannot answer helps nobody.
      if (!(await isAgentStopped(directory))) return reportAgent(await askStatus(agent, caller), entries);
    } catch (thrown) {
      if (asAgentError(thrown).code !== 'agent.unreachable') throw thrown;
    } finally {
      agent.close();
    }
    return reportRecords('silent', version, await readRecords(directory), entries);
  }

  const [own, ...others] = await Promise.all([
    read(agentDirectory(caller), () => findAgent(caller)),
    ...otherDirectories(caller).map((directory) =>
      read(directory, () => findAgentIn(directory)).catch(leaveOutForbidden),
    ),
  ]);
  const otherNetworkNamespaces = others
    .filter((report) => report !== null)
    .filter(({ agent, mounts }) => agent !== 'absent' || mounts.length > 0);
  return { schemaVersion: reportVersion, ...own!, otherNetworkNamespaces };
}

/** Who is not root sees of other network namespaces what their agents tell him, and not what is left of one. */
function leaveOutForbidden(error: unknown): null {
  if (asAgentError(error).code === 'permission.not-root') return null;
  throw error;
}

/**
 * Who may not use the control socket asks where the administrator has a group ask.
 *
 * Errors: `permission.not-root`, saying what is missing; any other error as it was.
 */
async function connectAsUser(directory: string, error: unknown): Promise<AgentConnection> {
  if (asAgentError(error).code !== 'permission.not-root') throw error;
  const path = statusSocketPath(directory);
  const refuse = (why: string, hint: string) =>
    new AgentError('permission.not-root', `the agent tells you no status: ${why}`, { hint }, error);
  try {
    const agent = await connectToAgent(path);
    if (agent !== null) return agent;
  } catch (thrown) {
    if (asAgentError(thrown).code !== 'permission.not-root') throw thrown;
    throw refuse(
      `you are not in the group of ${path}`,
      'Run the command as root, or have that group (ls -l) given to you.',
    );
  }
  throw refuse(
    `it serves no ${path}`,
    'Run the command as root, or have status_group set to a group of yours in efs-utils.conf.',
  );
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
