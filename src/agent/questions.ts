import { configuredSuffix } from '../core/config.ts';
import type { ServedMount } from '../core/control-protocol.ts';
import { parseFileSystemName } from '../core/endpoint.ts';
import { AgentError } from '../core/errors.ts';
import type { IdentityFacts } from '../core/identity-protocol.ts';
import { describeDifferences, type MountSpec } from '../core/mount-spec.ts';
import { decideRegion, type MountRequest, type PlanPorts, planEnvironment } from './plan.ts';
import type { Mount, TunnelPorts } from './tunnel.ts';

/** What callers ask about mounts; nothing changes by it. */
export interface Questions {
  /** What is served at a mount point, compared with what is asked for; null when it is not ours. */
  compare(request: MountRequest & { mountPoint: string }): Promise<ServedMount | null>;
  /**
   * Whose credentials a mount uses, or a mount by the caller would use; null for a mount without `iam`.
   *
   * Errors: `mountpoint.not-mounted`, `region.*`, `credentials.*`, `config.*`.
   */
  whoami(question: WhoamiQuestion): Promise<IdentityFacts | null>;
}

interface WhoamiQuestion {
  mountPoint: string | null;
  region: string | null;
  environment: Record<string, string>;
}

/** @param find what is served at a mount point, as the kernel's mount tables have it now. */
export function createQuestions(
  ports: Omit<PlanPorts, 'identities'> & Pick<TunnelPorts, 'identities'>,
  find: (mountPoint: string) => Promise<Mount | null>,
): Questions {
  /** Whether a device names the file system of a mount: by its id, its name, or another name of that. */
  async function isSameFileSystem(there: Mount, { remote }: MountSpec): Promise<boolean> {
    if (remote.kind === 'file-system') return remote.id === there.plan.fileSystemId;
    const known = there.plan.spec.remote;
    if (known.kind === 'name' && known.name === remote.name) return true;
    const parts =
      parseFileSystemName(remote.name) ?? parseFileSystemName(await ports.resolveCanonicalName(remote.name));
    return parts?.fileSystemId === there.plan.fileSystemId;
  }

  return {
    async compare({ spec, mountPoint, environment }) {
      const there = await find(mountPoint);
      if (there === null) return null;
      const { plan } = there;
      const { data: differences, way: tunnelDifferences } = describeDifferences(plan.spec, spec);
      if (!(await isSameFileSystem(there, spec)))
        differences.unshift(`the file system is ${plan.fileSystemId} there`);
      const askedEnvironment = planEnvironment(environment, await ports.readConfig());
      if (spec.iam && differences.length === 0 && !sameIdentity(plan.environment, askedEnvironment))
        differences.push('the environment names another source of credentials');
      const through = plan.spec.accessPoint === null ? '' : ` through ${plan.spec.accessPoint}`;
      return {
        description: `${plan.fileSystemId}:${plan.spec.path}${through}`,
        differences,
        tunnelDifferences,
        port: there.port,
        server: there.server,
      };
    },
    async whoami({ mountPoint, region, environment }) {
      if (mountPoint !== null) {
        const there = await find(mountPoint);
        if (there !== null) return there.findIdentity();
        throw new AgentError('mountpoint.not-mounted', `no EFS file system is mounted on ${mountPoint}`, {
          mountPoint,
        });
      }
      const config = await ports.readConfig();
      const caller = {
        environment: planEnvironment(environment, config),
        metadataEndpoint: config.metadataEndpoint,
      };
      const decided = await decideRegion(ports, region, caller, config, null);
      return ports.identities.whoami(caller, {
        credentials: { awsProfile: null, awsCredsUri: null, roleArn: null, jwtPath: null },
        region: decided,
        dnsSuffix: configuredSuffix(config, decided).value,
      });
    },
  };
}

/** Variables that decide whose credentials are found. */
const identityEnvironment = [
  'AWS_PROFILE',
  'AWS_CONTAINER_CREDENTIALS_RELATIVE_URI',
  'AWS_CONTAINER_CREDENTIALS_FULL_URI',
  'AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE',
  'AWS_ROLE_ARN',
  'AWS_WEB_IDENTITY_TOKEN_FILE',
  'AWS_SHARED_CREDENTIALS_FILE',
  'AWS_CONFIG_FILE',
  'AWS_EC2_METADATA_DISABLED',
] as const;

/** Keys in the environment are compared by being there: the values are not kept. */
function sameIdentity(there: Record<string, string>, asked: Record<string, string>): boolean {
  return (
    identityEnvironment.every((name) => there[name] === asked[name]) &&
    'AWS_ACCESS_KEY_ID' in there === 'AWS_ACCESS_KEY_ID' in asked
  );
}
