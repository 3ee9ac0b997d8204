import { AgentError } from '../core/errors.ts';
import type { Mount } from './tunnel.ts';

/**
 * Says why mount.nfs4 failed, in terms of the file system and the identity instead of 127.0.0.1.
 *
 * The mount target answers "access denied" for the file system policy, for an access point it does not know
 * and for a file system that has another owner alike; what differs is what we asked with. To a client certificate that
 * it does not take it says nothing at all: it ends the connection, and mount.nfs4 knows of a reset or of silence.
 */
export async function explainRefusal(
  mount: Pick<Mount, 'plan' | 'findIdentity' | 'wasTurnedAway'>,
  status: number,
  stderr: string,
): Promise<AgentError> {
  const { fileSystemId, spec, dnsName } = mount.plan;
  const details = { fileSystem: fileSystemId, status };
  const through = spec.accessPoint === null ? '' : ` through access point ${spec.accessPoint}`;
  if (/access denied|permission denied|operation not permitted/i.test(stderr)) {
    if (!spec.iam) {
      return new AgentError(
        'access.denied',
        `${fileSystemId} refused this anonymous client${through}: the option "iam" was not given, and the file system policy does not grant elasticfilesystem:ClientMount to everyone`,
        {
          ...details,
          hint: `Add the option${spec.tls ? '' : 's tls and'} iam, or allow anonymous clients in the file system policy.`,
        },
      );
    }
    const { who, source } = await describeIdentity(mount);
    return new AgentError(
      'access.denied',
      `${fileSystemId} refused ${who}${source}${through}: the file system policy does not grant it elasticfilesystem:ClientMount`,
      {
        ...details,
        hint: `Allow elasticfilesystem:ClientMount to ${who} in the file system policy of ${fileSystemId}${through}.`,
      },
    );
  }
  if (mount.wasTurnedAway()) {
    if (!spec.iam) {
      return new AgentError(
        'target.closed',
        `${dnsName} closed every connection after the TLS handshake, without an answer to this anonymous client${through}`,
        {
          ...details,
          hint: 'Check that the address is a mount target of this file system; if it is, add iam.',
        },
      );
    }
    const { who, source } = await describeIdentity(mount);
    return new AgentError(
      'access.denied',
      `${fileSystemId} closed every connection after the TLS handshake, without an answer to ${who}${source}${through}: it does not take the client certificate`,
      {
        ...details,
        hint: 'Check the clock of this machine (date -u), that region and file system belong together, and efs-agent whoami.',
      },
    );
  }
  return new AgentError(
    'nfs.failed',
    `mount.nfs4 could not mount ${fileSystemId}:${spec.path} (${dnsName}) and exited with status ${status}`,
    details,
  );
}

async function describeIdentity(
  mount: Pick<Mount, 'findIdentity'>,
): Promise<{ who: string; source: string }> {
  const identity = await mount.findIdentity();
  if (identity === null) return { who: 'an unknown identity', source: '' };
  return {
    who: identity.arn ?? `access key ${identity.accessKeyId}`,
    source: ` (credentials from ${identity.source})`,
  };
}
