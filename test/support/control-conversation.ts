import { type AgentMessage, protocolVersion } from '../../src/core/control-protocol.ts';
import { AgentError } from '../../src/core/errors.ts';
import { parseMountSpec, parseOptions } from '../../src/core/mount-spec.ts';
import { connectToAgent } from '../../src/helper/control-client.ts';
import { controlSocketPath } from '../../src/host/runtime-dir.ts';
import { type AgentStage, fileSystemId } from './agent-stage.ts';

/** mount.efs's side of a mount with `tls`, without its process: for many mounts, and for what depends on microseconds. */
export interface MountConversation {
  /** Waits until the tunnel is ready, and gives its port. Errors: those of the agent. */
  ready(): Promise<number | null>;
  /** mount.nfs4 has succeeded. */
  confirm(): Promise<void>;
  hangUp(): void;
}

export async function askForMount(stage: AgentStage, mountPoint: string): Promise<MountConversation> {
  const agent = (await connectToAgent(controlSocketPath(stage.runtimeDir)))!;
  const receive = async <K extends AgentMessage['kind']>(kind: K) => {
    for (;;) {
      const message = await agent.receive(60_000);
      if (message.kind === 'failed')
        throw new AgentError(message.error.code, message.error.message, message.error.details);
      if (message.kind === kind) return message as Extract<AgentMessage, { kind: K }>;
    }
  };
  agent.send({
    kind: 'tunnel.open',
    version: protocolVersion,
    spec: parseMountSpec(fileSystemId, parseOptions('tls,mounttargetip=127.0.0.1')),
    mountPoint,
    environment: {},
    callerSocket: null,
  });
  return {
    ready: async () => (await receive('tunnel.ready')).port,
    async confirm() {
      agent.send({ kind: 'mount.ended', status: 0, stderr: '' });
      await receive('mounted');
    },
    hangUp: () => agent.close(),
  };
}
