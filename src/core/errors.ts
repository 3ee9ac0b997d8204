/**
 * The fault table: every failure efs-agent reports to a person has its code here.
 *
 * `retry`: `never` = the same request fails again until something is changed; `backoff` = it may
 * succeed later by itself. `layer` says where the administrator has to look. `exit` is a mount(8)
 * status: 1 wrong invocation, 2 system error, 32 mount failure.
 */
export const faults = {
  'spec.malformed': fault(
    'local',
    'never',
    1,
    'Write fs-<hex digits>[:/path], for example fs-0123abcd:/app.',
  ),
  'option.malformed': fault('local', 'never', 1, 'Write options as name or name=value, separated by commas.'),
  'option.conflict': fault('local', 'never', 1, 'Give only one of the two options.'),
  'option.requires': fault('local', 'never', 1, 'Add the option that is named, or leave this one out.'),
  'option.unsupported': fault(
    'local',
    'never',
    1,
    'Leave the option out; efs-agent never ignores an option silently.',
  ),
  'access-point.malformed': fault(
    'local',
    'never',
    1,
    'Write accesspoint=fsap- followed by 17 lower-case hexadecimal digits.',
  ),
  usage: fault('local', 'never', 1, 'Run efs-agent --help.'),
  'permission.not-root': fault('local', 'never', 1, 'Run the command as root, for example with sudo.'),
  'mountpoint.missing': fault('local', 'never', 32, 'Create the directory first: mkdir -p <directory>.'),
  'mountpoint.not-directory': fault('local', 'never', 32, 'Name a directory as the mount point.'),
  'mountpoint.busy': fault('local', 'never', 32, 'Unmount what is mounted there, or name another directory.'),
  'mountpoint.not-mounted': fault('local', 'never', 32, 'See what is mounted with: efs-agent status.'),
  'namespace.unusable': fault(
    'local',
    'never',
    32,
    'Name a network namespace that exists, such as /run/netns/<name>; nsenter is in the package util-linux.',
  ),
  'config.unreadable': fault('local', 'never', 2, 'Make the configuration file readable by root.'),
  'config.malformed': fault('local', 'never', 2, 'Correct the line that is named in the configuration file.'),
  'config.invalid': fault('local', 'never', 2, 'Correct the key that is named in the configuration file.'),
  'region.unknown': fault(
    'local',
    'never',
    1,
    'Add the option region=<region>, or set region in /etc/amazon/efs/efs-utils.conf.',
  ),
  'region.malformed': fault('local', 'never', 1, 'Write a region name such as us-east-1.'),
  'zone.unknown': fault(
    'iam',
    'backoff',
    32,
    'Set az_id in the section [mount] of /etc/amazon/efs/efs-utils.conf, or enable the instance metadata service.',
  ),
  'dns.not-found': fault(
    'dns',
    'backoff',
    32,
    'Check the file system id and the region, that the VPC resolves DNS names, and that the file system has a mount target; or give mounttargetip=<address>.',
  ),
  'dns.failed': fault('dns', 'backoff', 32, 'Check /etc/resolv.conf and that a name server answers.'),
  'target.refused': fault('tcp', 'backoff', 32, 'Check the address: nothing listens on that port there.'),
  'target.silent': fault(
    'tcp',
    'backoff',
    32,
    'Allow TCP 2049 from this instance to the mount target in its security group, and check the route.',
  ),
  'target.unreachable': fault(
    'tcp',
    'backoff',
    32,
    'Check the route from this instance to the mount target.',
  ),
  'target.closed': fault(
    'tcp',
    'backoff',
    32,
    'Check that the address is an EFS mount target of this file system.',
  ),
  'tls.name-mismatch': fault(
    'tls',
    'never',
    32,
    'The address belongs to another server: check mounttargetip, DNS and /etc/hosts.',
  ),
  'tls.expired': fault(
    'tls',
    'backoff',
    32,
    'Check the clock of this machine (date -u); if it is right, the server certificate must be replaced.',
  ),
  'tls.untrusted': fault(
    'tls',
    'never',
    32,
    'Check cafile or stunnel_cafile: it must hold the root that signed the server certificate.',
  ),
  'tls.failed': fault(
    'tls',
    'backoff',
    32,
    'Check that the address and port are those of an EFS mount target.',
  ),
  'ca-file.unreadable': fault('tls', 'never', 32, 'Name a readable PEM file in cafile or stunnel_cafile.'),
  'credentials.missing': fault(
    'iam',
    'backoff',
    32,
    'Attach an instance role, or name a source with awsprofile= or awscredsuri=.',
  ),
  'credentials.metadata-silent': fault(
    'iam',
    'backoff',
    32,
    'Check that the instance metadata service is enabled; in a container raise its hop limit to 2.',
  ),
  'credentials.profile-missing': fault(
    'iam',
    'never',
    32,
    'Add the profile with its keys to ~/.aws/credentials of root.',
  ),
  'credentials.rejected': fault('iam', 'backoff', 32, 'Check the role, its trust policy and the token file.'),
  'credentials.failed': fault('iam', 'backoff', 32, 'Check the credential source that is named.'),
  'metadata.unavailable': fault('iam', 'backoff', 32, 'Check that the instance metadata service is enabled.'),
  'access.denied': fault(
    'nfs',
    'never',
    32,
    'Allow elasticfilesystem:ClientMount to this identity in the file system policy.',
  ),
  'cloudwatch.failed': fault(
    'iam',
    'backoff',
    32,
    'Allow HTTPS to CloudWatch Logs, or set enabled = false in the section [cloudwatch-log].',
  ),
  'port.taken': fault('local', 'never', 32, 'Choose another tlsport, or leave the option out.'),
  'port.exhausted': fault('local', 'backoff', 32, 'Widen port_range_lower_bound and port_range_upper_bound.'),
  'nfs.program-missing': fault(
    'local',
    'never',
    32,
    'Install the NFS client: nfs-common on Debian and Ubuntu, nfs-utils elsewhere.',
  ),
  'nfs.failed': fault('nfs', 'backoff', 32, 'Read the message of mount.nfs4 above; see also dmesg.'),
  'nfs.timeout': fault(
    'nfs',
    'backoff',
    32,
    'The server accepted the connection and did not answer; see efs-agent status and the log.',
  ),
  'agent.unreachable': fault(
    'local',
    'backoff',
    2,
    'Start it: systemctl start efs-agent; its log is in journalctl -u efs-agent.',
  ),
  'agent.start-failed': fault(
    'local',
    'backoff',
    2,
    'Read journalctl -u efs-agent, or run efs-agent agent in a terminal to see why.',
  ),
  'agent.busy': fault(
    'local',
    'never',
    2,
    'Another agent uses this runtime directory: stop it, or set EFS_AGENT_RUNTIME_DIR.',
  ),
  'agent.protocol': fault(
    'local',
    'never',
    2,
    'Restart the agent so that helper and agent have the same version.',
  ),
  'runtime-dir.unusable': fault(
    'local',
    'never',
    2,
    'Make the runtime directory writable for root and not full.',
  ),
  'tunnel.worker-lost': fault(
    'local',
    'backoff',
    2,
    'Try again; the agent has started a new tunnel worker. See its log.',
  ),
  'umount.failed': fault(
    'local',
    'backoff',
    32,
    'Close the files that are open there (fuser -vm <directory>), or use umount -l.',
  ),
  interrupted: fault('local', 'backoff', 8, 'Run the command again.'),
  internal: fault('local', 'never', 4, 'This is a defect of efs-agent: please report it with the log.'),
} as const;

export type FaultCode = keyof typeof faults;
export type Layer = 'local' | 'dns' | 'tcp' | 'tls' | 'iam' | 'nfs';
export type Details = Readonly<Record<string, string | number | boolean | null>>;

/** One error of the fault table as it travels between our processes. Carries no secret. */
export interface ErrorMessage {
  code: FaultCode;
  message: string;
  details: Details;
}

/** A failure that efs-agent explains to a person: a code of the fault table, what failed, on what. */
export class AgentError extends Error {
  readonly code: FaultCode;
  readonly details: Details;

  constructor(code: FaultCode, message: string, details: Details = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'AgentError';
    this.code = code;
    this.details = details;
  }

  /** One next step for the administrator: the fault table's, unless the place of the failure knew a better one. */
  get hint(): string {
    const own = this.details['hint'];
    return typeof own === 'string' ? own : faults[this.code].hint;
  }

  toMessage(): ErrorMessage {
    return { code: this.code, message: this.message, details: this.details };
  }
}

/**
 * Reads an error that another of our processes sent.
 *
 * Errors: a code this version does not know becomes `internal`, its text kept.
 */
export function fromErrorMessage(wire: ErrorMessage): AgentError {
  return Object.hasOwn(faults, wire.code)
    ? new AgentError(wire.code, wire.message, wire.details)
    : new AgentError('internal', `${wire.code}: ${wire.message}`, wire.details);
}

/** Anything that was thrown, as an `AgentError`: itself, or `internal` with its cause. */
export function asAgentError(thrown: unknown): AgentError {
  if (thrown instanceof AgentError) return thrown;
  const text = thrown instanceof Error ? thrown.message : String(thrown);
  return new AgentError('internal', text, {}, thrown);
}

/**
 * The lines a person sees on stderr: what failed, its code, and one next step.
 *
 * @param program the name the user typed, for example `mount.efs`.
 */
export function renderError(program: string, error: AgentError): string {
  return `${program}: ${error.message} [${error.code}]\n  ${error.hint}\n`;
}

function fault<R extends 'never' | 'backoff', E extends 1 | 2 | 4 | 8 | 32>(
  layer: Layer,
  retry: R,
  exit: E,
  hint: string,
) {
  return { layer, retry, exit, hint } as const;
}
