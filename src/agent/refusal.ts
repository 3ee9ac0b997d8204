import { AgentError } from '../core/errors.ts';
import type { Mount } from './tunnel.ts';

/**
 * Says why mount.nfs4 failed, in terms of the file system and the identity instead of 127.0.0.1.
 *
 * The mount target answers "access denied" for the file system policy, for an access point it does not know
 * and for a file system that has another owner alike; what differs is what we asked with.
 */
export async function explainRefusal(
  mount: Pick<Mount, 'plan' | 'findIdentity'>,
  status: number,
  stderr: string,
): Promise<AgentError> {
  const { plan } = mount;
  const what = `${plan.fileSystemId}:${plan.spec.path}`;
  const details = { fileSystem: plan.fileSystemId, status };
  if (!/access denied|permission denied|operation not permitted/i.test(stderr)) {
    return new AgentError(
      'nfs.failed',
      `mount.nfs4 could not mount ${what} (${plan.dnsName}) and exited with status ${status}`,
      details,
    );
  }
  const through = plan.spec.accessPoint === null ? '' : ` through access point ${plan.spec.accessPoint}`;
  if (!plan.spec.iam) {
    return new AgentError(
      'access.denied',
      `${plan.fileSystemId} refused this anonymous client${through}: the option "iam" was not given, and the file system policy does not grant elasticfilesystem:ClientMount to everyone`,
      {
        ...details,
        hint: `Add the option${plan.spec.tls ? '' : 's tls and'} iam, or allow anonymous clients in the file system policy.`,
      },
    );
  }
  const identity = await mount.findIdentity();
  const who =
    identity === null ? 'an unknown identity' : (identity.arn ?? `access key ${identity.accessKeyId}`);
  const source = identity === null ? '' : ` (credentials from ${identity.source})`;
  return new AgentError(
    'access.denied',
    `${plan.fileSystemId} refused ${who}${source}${through}: the file system policy does not grant it elasticfilesystem:ClientMount`,
    {
      ...details,
      hint: `Allow elasticfilesystem:ClientMount to ${who} in the file system policy of ${plan.fileSystemId}${through}.`,
    },
  );
}
