import { configuredSuffix } from '../core/config.ts';
import { parseFileSystemName } from '../core/endpoint.ts';
import { AgentError, asAgentError } from '../core/errors.ts';
import type { Clock } from '../core/ports.ts';
import type { Identities } from './identities.ts';
import { decideRegion, type MountRequest, type PlanPorts, planEnvironment } from './plan.ts';
import type { TunnelPlan } from './tunnel.ts';

export interface MountReportPorts extends Pick<PlanPorts, 'log' | 'readConfig'> {
  clock: Clock;
  identities: Pick<Identities, 'instance' | 'publish'>;
}

/**
 * Tells CloudWatch Logs how mounts ended, where `[cloudwatch-log]` asks for it.
 *
 * Nobody waits for it, and nothing fails with it: an error is one warning in the log, and not said again until it is another one.
 */
export interface MountReport {
  mounted(plan: TunnelPlan): void;
  /** `words` is what mount.nfs4 said, if it was asked. */
  failed(request: MountRequest | TunnelPlan, error: unknown, words: string): void;
}

/** Source: specification 9; our choice: it happens after the mount, with the identity of the mount. */
export function createMountReport(ports: MountReportPorts): MountReport {
  const { log } = ports;
  const said = new Set<string>();

  async function publish(request: MountRequest | TunnelPlan, message: string): Promise<void> {
    const atMs = ports.clock.nowMs();
    const config = await ports.readConfig();
    if (!config.cloudWatchEnabled) return;
    const { spec } = request;
    const caller = {
      environment: planEnvironment(request.environment, config),
      metadataEndpoint: config.metadataEndpoint,
    };
    const place = 'region' in request ? request : placeOf(request);
    const region =
      'region' in request
        ? request.region
        : await decideRegion(ports, spec.region, caller, config, place.region);
    if (place.fileSystemId === null && config.logGroup.includes('{fs_id}'))
      log('warn', 'cloudwatch.id-unknown', { logGroup: config.logGroup });
    await ports.identities.publish(caller, {
      message,
      atMs,
      logGroup: config.logGroup,
      retentionDays: config.logRetentionDays,
      fileSystemId: place.fileSystemId,
      region,
      dnsSuffix: configuredSuffix(config, region).value,
      credentials: {
        awsProfile: spec.awsProfile,
        awsCredsUri: spec.awsCredsUri,
        roleArn: spec.roleArn,
        jwtPath: spec.jwtPath,
      },
    });
    said.clear();
    log('debug', 'cloudwatch.published', { fileSystem: place.fileSystemId });
  }

  function start(request: MountRequest | TunnelPlan, message: string): void {
    publish(request, message).catch((thrown: unknown) => {
      const { code, message: error, hint, details } = asAgentError(thrown);
      const reason = `${code} ${details['action'] ?? ''} ${details['reason'] ?? ''}`;
      const level = said.has(reason) ? 'debug' : 'warn';
      said.add(reason);
      log(level, 'cloudwatch.failed', { code, error, hint });
    });
  }

  return {
    mounted(plan) {
      start(plan, `Successfully mounted ${plan.dnsName} at ${plan.mountPoint}`);
    },
    failed(request, thrown, words) {
      // A command that only opens a tunnel mounts nothing; one that was interrupted did not fail.
      if (request.mountPoint === null || isInterruption(thrown)) return;
      const reason = [asAgentError(thrown).message, words.trim()].filter(Boolean).join(': ');
      start(request, `Mount failed, ${reason}`);
    },
  };
}

/** What the device alone tells. */
function placeOf({ spec: { remote } }: MountRequest): { fileSystemId: string | null; region: string | null } {
  if (remote.kind === 'file-system') return { fileSystemId: remote.id, region: null };
  return parseFileSystemName(remote.name) ?? { fileSystemId: null, region: null };
}

function isInterruption(thrown: unknown): boolean {
  return thrown instanceof AgentError && thrown.code === 'interrupted';
}
