import { pickEnvironment, protocolVersion, type ServedMount } from '../core/control-protocol.ts';
import type { MountSpec } from '../core/mount-spec.ts';
import { findNfsMount, type MountEntry, parseMountInfo } from '../core/mountinfo.ts';
import { readOwnMountTable } from '../host/own-mounts.ts';
import type { Caller } from './caller.ts';
import { converse, receiveAnswer } from './conversation.ts';
import { openAgent } from './start-agent.ts';

/** The NFS mount that is on top at a mount point, or null. */
export function readNfsMount(mountPoint: string, caller: Caller): MountEntry | null {
  return findNfsMount(parseMountInfo(readOwnMountTable(caller.files)), mountPoint);
}

/** What the agent serves at a mount point, compared with what is asked for; null when it is none of ours. */
export async function compareMount(
  spec: MountSpec,
  mountPoint: string,
  caller: Caller,
): Promise<ServedMount | null> {
  // One that was not running knows the mounts of the one before it.
  const agent = await openAgent(caller);
  return converse(agent, caller, async () => {
    agent.send({
      kind: 'compare',
      version: protocolVersion,
      spec,
      mountPoint,
      environment: pickEnvironment(caller.environment),
    });
    return (await receiveAnswer(agent, 'compared', caller.limits.closeMs)).served;
  });
}
