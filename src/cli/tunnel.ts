import type { CommandModule } from 'yargs';
import { pickEnvironment, protocolVersion } from '../core/control-protocol.ts';
import { AgentError } from '../core/errors.ts';
import { formatOptions, type MountSpec, parseMountSpec, parseOptions } from '../core/mount-spec.ts';
import type { Caller } from '../helper/caller.ts';
import type { AgentConnection } from '../helper/control-client.ts';
import { converse, receiveAnswer } from '../helper/conversation.ts';
import { createProgress } from '../helper/progress.ts';
import { openAgent } from '../helper/start-agent.ts';
import { mountOptions, verboseOption } from './options.ts';

interface Arguments {
  spec: string;
  o: string[];
  v: boolean;
}

/** `efs-agent tunnel`: a tunnel without a mount, for as long as the command runs. */
export function createTunnelCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'tunnel <spec>',
    builder: (yargs) =>
      yargs
        .positional('spec', {
          type: 'string',
          demandOption: true,
          describe: 'fs-<id>, or a DNS name of a file system',
        })
        .option('o', mountOptions)
        .option('v', verboseOption),
    handler: async ({ spec, o, v }) => {
      await holdTunnel(parseTunnelSpec(spec, o.join(',')), v, caller);
    },
  };
}

/** Errors: those of a mount spec; `option.unsupported` for options of mount.nfs4, which does not run here. */
function parseTunnelSpec(device: string, options: string): MountSpec {
  const spec = parseMountSpec(device, parseOptions(options));
  if (!spec.tls) {
    throw new AgentError('option.requires', 'The "tls" option is required for a tunnel', { option: 'tls' });
  }
  if (spec.networkNamespace !== null) {
    throw new AgentError(
      'option.unsupported',
      'a tunnel alone is opened in the network namespace of its caller',
      {
        hint: 'Run it there: nsenter --net=<path> efs-agent tunnel ...',
      },
    );
  }
  if (spec.nfsOptions.length > 0) {
    throw new AgentError(
      'option.unsupported',
      `a tunnel alone has no NFS options: ${formatOptions(spec.nfsOptions)}`,
    );
  }
  return spec;
}

async function holdTunnel(spec: MountSpec, verbose: boolean, caller: Caller): Promise<void> {
  const agent = await openAgent(caller);
  const progress = createProgress(verbose, caller);
  let ready = false;
  try {
    await converse(agent, caller, async () => {
      agent.send({
        kind: 'tunnel.open',
        version: protocolVersion,
        spec,
        mountPoint: null,
        environment: pickEnvironment(caller.environment),
        callerSocket: null,
      });
      const tunnel = await receiveAnswer(agent, 'tunnel.ready', caller.limits.silenceMs, progress);
      ready = true;
      caller.writeOut(`127.0.0.1:${tunnel.port}\n`);
      await waitForEnd(agent);
    });
  } catch (thrown) {
    // A signal is how a tunnel that is ready is meant to end.
    if (!(ready && caller.interruption.aborted)) throw thrown;
  } finally {
    progress.end();
  }
}

async function waitForEnd(agent: AgentConnection): Promise<never> {
  const { kind } = await receiveAnswer(agent, 'closed', null);
  throw new AgentError('agent.unreachable', `the agent ended the tunnel (${kind})`);
}
