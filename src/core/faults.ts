/**
 * The catalogue of faults: every failure efs-agent reports to a person has its code here. `docs/errors.md` and
 * `efs-agent explain` are made from it.
 *
 * `retry`: `never` = the same request fails again until something is changed; `backoff` = it may
 * succeed later by itself. `layer` says where the administrator has to look. `exit` is a mount(8)
 * status: 1 wrong invocation, 2 system error, 32 mount failure. `text` says what the code means, `cause` what is most
 * often behind it, `hint` the next step.
 */
export const faults = {
  'spec.malformed': fault('local', 'never', 1, {
    text: 'What was named is not a file system.',
    cause:
      'A typing error, an id with upper-case letters, or a DNS name that is not the one of an EFS file system.',
    hint: 'Write fs-<hex digits>[:/path], for example fs-0123abcd:/app.',
  }),
  'option.malformed': fault('local', 'never', 1, {
    text: 'A mount option or command-line value cannot be read.',
    cause: 'A typing error, a value of the wrong form, or a number out of its range.',
    hint: 'Write options as name or name=value, separated by commas.',
  }),
  'option.conflict': fault('local', 'never', 1, {
    text: 'Two options that exclude each other were given.',
    cause: 'Options from two sources, such as an fstab line that was extended.',
    hint: 'Give only one of the two options.',
  }),
  'option.requires': fault('local', 'never', 1, {
    text: 'An option was given without another one that it needs.',
    cause:
      'iam and accesspoint work through the tunnel only, and so need tls; rolearn and jwtpath belong together.',
    hint: 'Add the option that is named, or leave this one out.',
  }),
  'option.unsupported': fault('local', 'never', 1, {
    text: 'An option is known and not supported here.',
    cause: 'An option of amazon-efs-utils or mount.nfs4 that efs-agent cannot honour.',
    hint: 'Leave the option out; efs-agent never ignores an option silently.',
  }),
  'access-point.malformed': fault('local', 'never', 1, {
    text: 'What was named is not the id of an access point.',
    cause: 'A typing error, or the ARN of the access point in the place of its id.',
    hint: 'Write accesspoint=fsap- followed by 17 lower-case hexadecimal digits.',
  }),
  usage: fault('local', 'never', 1, {
    text: 'The command line is not one of this program.',
    cause: 'An unknown command or option, too many operands or too few.',
    hint: 'Run efs-agent --help.',
  }),
  'permission.not-root': fault('local', 'never', 1, {
    text: 'The command needs root.',
    cause: 'Mounting, and talking to the agent, is for root alone.',
    hint: 'Run the command as root, for example with sudo.',
  }),
  'mountpoint.missing': fault('local', 'never', 32, {
    text: 'The mount point does not exist.',
    cause: 'The directory was never made, or what it is in is not mounted yet.',
    hint: 'Create the directory first: mkdir -p <directory>.',
  }),
  'mountpoint.not-directory': fault('local', 'never', 32, {
    text: 'The mount point is not a directory.',
    cause: 'A file or device has that name.',
    hint: 'Name a directory as the mount point.',
  }),
  'mountpoint.busy': fault('local', 'never', 32, {
    text: 'Something else is mounted on the mount point, or it does not answer.',
    cause:
      'An earlier mount of another file system, access point or identity, or a mount whose server is gone.',
    hint: 'See what is mounted there with findmnt <directory>; unmount it, or name another directory.',
  }),
  'mountpoint.not-mounted': fault('local', 'never', 32, {
    text: 'No file system of efs-agent is mounted there.',
    cause: 'It was unmounted already, or another program has mounted it.',
    hint: 'See what is mounted with: efs-agent status.',
  }),
  'namespace.unusable': fault('local', 'never', 32, {
    text: 'The network namespace of netns= cannot be entered.',
    cause: 'The path does not exist or is no network namespace, or nsenter is not installed.',
    hint: 'Name a network namespace that exists, such as /run/netns/<name>; nsenter is in the package util-linux.',
  }),
  'config.unreadable': fault('local', 'never', 2, {
    text: 'A configuration file cannot be read.',
    cause: 'Its permissions, a directory in its place, or EFS_AGENT_CONFIG names a file that is not there.',
    hint: 'Make the configuration file that is named readable by root, and try: efs-agent config.',
  }),
  'config.malformed': fault('local', 'never', 2, {
    text: 'A configuration or policy file is not in the form of its kind.',
    cause: 'A line that is no "key = value", a % that is not doubled, or JSON with a syntax error.',
    hint: 'Correct the line that is named in the configuration file, and try: efs-agent config.',
  }),
  'config.invalid': fault('local', 'never', 2, {
    text: 'A configuration or policy file says something that cannot be.',
    cause:
      'A value of the wrong form or out of range, an unknown key of our own section, or an element that has no meaning for NFS clients.',
    hint: 'Correct the key that is named in the configuration file, and try: efs-agent config.',
  }),
  'region.unknown': fault('local', 'never', 1, {
    text: 'The region of the file system is not known.',
    cause:
      'Neither option, environment nor configuration names it, and the instance metadata service does not answer.',
    hint: 'Add the option region=<region>, or set region in /etc/amazon/efs/efs-utils.conf.',
  }),
  'region.malformed': fault('local', 'never', 1, {
    text: 'The name of the region is not one.',
    cause: 'A typing error, or an availability zone in the place of the region.',
    hint: 'Write a region name such as us-east-1.',
  }),
  'zone.unknown': fault('iam', 'backoff', 32, {
    text: 'The availability zone id of this instance is not known.',
    cause: 'crossaccount needs it, and the instance metadata service does not tell it.',
    hint: 'Set az_id in the section [mount] of /etc/amazon/efs/efs-utils.conf, or enable the instance metadata service.',
  }),
  'dns.not-found': fault('dns', 'backoff', 32, {
    text: 'The name of the mount target does not exist.',
    cause:
      'A wrong file system id or region, no mount target in this VPC or zone, or a VPC whose DNS names are off.',
    hint: 'Check the file system id and the region, that the VPC resolves DNS names, and that the file system has a mount target; or give mounttargetip=<address>.',
  }),
  'dns.failed': fault('dns', 'backoff', 32, {
    text: 'No name server gave an answer.',
    cause: 'Name servers in /etc/resolv.conf that cannot be reached, or a network that is not up yet.',
    hint: 'Check /etc/resolv.conf and that a name server answers.',
  }),
  'target.refused': fault('tcp', 'backoff', 32, {
    text: 'The address answers and refuses the connection.',
    cause:
      'A wrong address: nothing listens on that port there. A security group never refuses, it is silent.',
    hint: 'Check the address (getent hosts <name>, mounttargetip=): nothing listens on that port there.',
  }),
  'target.silent': fault('tcp', 'backoff', 32, {
    text: 'The address does not answer.',
    cause:
      'A security group or network ACL that drops packets to TCP 2049, a route that leads nowhere, or a server that hangs.',
    hint: 'Allow TCP 2049 from this instance to the mount target in its security group, and check the route.',
  }),
  'target.unreachable': fault('tcp', 'backoff', 32, {
    text: 'The network cannot deliver packets to the address.',
    cause: 'No route to the network of the mount target, or the interface is down.',
    hint: 'Check the route from this instance to the mount target: ip route get <address>.',
  }),
  'target.closed': fault('tcp', 'backoff', 32, {
    text: 'The server accepted the connection and closed it before TLS was set up.',
    cause:
      'The address belongs to another service, or a device on the way ends connections it does not know.',
    hint: 'Check that the address is an EFS mount target of this file system.',
  }),
  'tls.name-mismatch': fault('tls', 'never', 32, {
    text: 'The server proved to be another one.',
    cause:
      'A wrong mounttargetip, an entry in /etc/hosts or DNS that leads elsewhere, or a device that intercepts TLS.',
    hint: 'The address belongs to another server: check mounttargetip, DNS and /etc/hosts.',
  }),
  'tls.expired': fault('tls', 'backoff', 32, {
    text: 'The server certificate is not valid at the time of this machine.',
    cause: 'Most often the clock of this machine is wrong.',
    hint: 'Check the clock of this machine (date -u); if it is right, the server certificate must be replaced.',
  }),
  'tls.untrusted': fault('tls', 'never', 32, {
    text: 'No trusted root vouches for the server certificate.',
    cause: 'A cafile for another authority, or a device that intercepts TLS.',
    hint: 'Check cafile or stunnel_cafile: it must hold the root that signed the server certificate.',
  }),
  'tls.failed': fault('tls', 'backoff', 32, {
    text: 'The TLS handshake failed.',
    cause: 'The server does not speak TLS on that port, or no version or cipher that both accept.',
    hint: 'Check that the address and port are those of an EFS mount target.',
  }),
  'ca-file.unreadable': fault('tls', 'never', 32, {
    text: 'The file of trusted roots cannot be used.',
    cause: 'The path does not exist, is not readable, or holds no whole PEM certificate.',
    hint: 'Name a readable PEM file in cafile or stunnel_cafile.',
  }),
  'credentials.missing': fault('iam', 'backoff', 32, {
    text: 'No source has credentials for iam.',
    cause: 'No instance role is attached, and neither profile, container nor web identity is set up.',
    hint: 'Attach an instance role, or name a source with awsprofile= or awscredsuri=.',
  }),
  'credentials.metadata-silent': fault('iam', 'backoff', 32, {
    text: 'No source has credentials, and the instance metadata service does not answer.',
    cause: 'The service is off, blocked, or a container is more hops away than its limit allows.',
    hint: 'Check that the instance metadata service is enabled; in a container raise its hop limit to 2.',
  }),
  'credentials.profile-missing': fault('iam', 'never', 32, {
    text: 'The profile that was named has no credentials.',
    cause: 'A typing error in awsprofile, or a profile in the home directory of another user than root.',
    hint: 'Add the profile with its keys to ~/.aws/credentials of root.',
  }),
  'credentials.rejected': fault('iam', 'backoff', 32, {
    text: 'AWS does not accept the credentials or token.',
    cause: 'A trust policy that does not name this role, an expired token, or a clock that is wrong.',
    hint: 'Check the role, its trust policy and the token file; efs-agent whoami tries without a mount.',
  }),
  'credentials.failed': fault('iam', 'backoff', 32, {
    text: 'The credential source that was named could not be asked.',
    cause: 'A broken file, an endpoint that cannot be reached or answers nonsense, or a process that ended.',
    hint: 'Check the credential source that is named; efs-agent whoami tries it without a mount.',
  }),
  'metadata.unavailable': fault('iam', 'backoff', 32, {
    text: 'The instance metadata service does not answer.',
    cause: 'It is off, blocked, or this is not an EC2 instance.',
    hint: 'Check that the instance metadata service is enabled.',
  }),
  'access.denied': fault('nfs', 'never', 32, {
    text: 'The mount target refuses this client.',
    cause:
      'The file system policy does not allow elasticfilesystem:ClientMount to this identity, or the access point is not one of the file system.',
    hint: 'Allow elasticfilesystem:ClientMount to this identity in the file system policy.',
  }),
  'cloudwatch.failed': fault('iam', 'backoff', 32, {
    text: 'An event could not be written to CloudWatch Logs.',
    cause:
      'No permission to write, no route to the service, or a wrong log group. Mounts are not touched by it.',
    hint: 'Allow HTTPS to CloudWatch Logs, or set enabled = false in the section [cloudwatch-log].',
  }),
  'port.taken': fault('local', 'never', 32, {
    text: 'The local port of tlsport= is taken.',
    cause: 'Another program, or another mount with the same tlsport, listens there.',
    hint: 'Choose another tlsport, or leave the option out.',
  }),
  'port.exhausted': fault('local', 'backoff', 32, {
    text: 'No local port of the configured range is free.',
    cause: 'As many mounts as ports, or other programs in that range.',
    hint: 'Widen port_range_lower_bound and port_range_upper_bound in /etc/amazon/efs/efs-utils.conf.',
  }),
  'nfs.program-missing': fault('local', 'never', 32, {
    text: 'mount.nfs4 cannot be run.',
    cause: 'The NFS client of the distribution is not installed.',
    hint: 'Install the NFS client: nfs-common on Debian and Ubuntu, nfs-utils elsewhere.',
  }),
  'nfs.failed': fault('nfs', 'backoff', 32, {
    text: 'mount.nfs4 failed for a reason of its own.',
    cause:
      'A path that does not exist in the file system, an option that the kernel does not take, or a kernel without an NFS client.',
    hint: 'Read the message of mount.nfs4 above; see also dmesg.',
  }),
  'nfs.timeout': fault('nfs', 'backoff', 32, {
    text: 'mount.nfs4 did not end in time and was stopped.',
    cause: 'The connection was made and the NFS server did not answer on it.',
    hint: 'The server accepted the connection and did not answer; see efs-agent status and journalctl -u efs-agent.',
  }),
  'agent.unreachable': fault('local', 'backoff', 2, {
    text: 'The agent does not answer.',
    cause: 'It is stopped, hangs, or ended in the middle of the request.',
    hint: 'Start it: systemctl start efs-agent; its log is in journalctl -u efs-agent.',
  }),
  'agent.start-failed': fault('local', 'backoff', 2, {
    text: 'The agent could not be started.',
    cause:
      'A configuration file with an error, a runtime directory that cannot be used, or an incomplete installation.',
    hint: 'Read journalctl -u efs-agent, or run efs-agent agent in a terminal to see why.',
  }),
  'agent.busy': fault('local', 'never', 2, {
    text: 'Another agent uses the runtime directory.',
    cause: 'An agent that systemd or a mount has started runs already.',
    hint: 'Another agent uses this runtime directory: stop it, or set EFS_AGENT_RUNTIME_DIR.',
  }),
  'agent.protocol': fault('local', 'never', 2, {
    text: 'Helper and agent do not understand each other.',
    cause: 'An upgrade of which only one of the two has heard, or another program on the socket.',
    hint: 'Give helper and agent the same version: systemctl restart efs-agent, which ends no mount.',
  }),
  'runtime-dir.unusable': fault('local', 'never', 2, {
    text: 'The runtime directory cannot be used.',
    cause: 'It is not writable, full, or a file is in its place.',
    hint: 'Make the runtime directory writable for root and not full: ls -ld <directory>, df -h <directory>.',
  }),
  'tunnel.worker-lost': fault('local', 'backoff', 2, {
    text: 'The tunnel worker ended during the mount.',
    cause: 'It was killed, for example for want of memory, or has a defect.',
    hint: 'Try again: there is a new tunnel worker; why the old one ended is in journalctl -u efs-agent.',
  }),
  'umount.failed': fault('local', 'backoff', 32, {
    text: 'The kernel or umount refused to unmount.',
    cause: 'Files are open there, a program has its working directory there, or something is mounted below.',
    hint: 'Close the files that are open there (fuser -vm <directory>), or use umount -l.',
  }),
  'bundle.failed': fault('local', 'never', 2, {
    text: 'The support archive could not be written.',
    cause:
      'A file of that name is there already, the directory is full or not writable, or tar is not installed.',
    hint: 'Name another file with -o.',
  }),
  interrupted: fault('local', 'backoff', 8, {
    text: 'A signal ended the command.',
    cause: 'Ctrl-C, a timeout of the caller, or systemd that stops the mount unit.',
    hint: 'Run the command again.',
  }),
  internal: fault('local', 'never', 4, {
    text: 'Something happened that efs-agent does not expect.',
    cause: 'A defect of efs-agent, or a system that lacks what every Linux has.',
    hint: 'This is a defect of efs-agent: please report it with the archive that efs-agent bundle writes.',
  }),
} as const;

export type FaultCode = keyof typeof faults;
export type Layer = 'local' | 'dns' | 'tcp' | 'tls' | 'iam' | 'nfs';

/** What each layer is, in the order in which a mount passes them. */
export const layers: Readonly<Record<Layer, string>> = {
  local: 'this machine',
  dns: 'the name of the mount target',
  tcp: 'the connection to the mount target',
  tls: 'encryption and certificates',
  iam: 'credentials and policies',
  nfs: 'the NFS server',
};

/** Whether the same request may succeed later, for people. */
export const retries: Readonly<Record<'never' | 'backoff', string>> = {
  never: 'no: something must be changed first',
  backoff: 'yes, it may succeed later by itself',
};

function fault<R extends 'never' | 'backoff', E extends 1 | 2 | 4 | 8 | 32>(
  layer: Layer,
  retry: R,
  exit: E,
  words: { text: string; cause: string; hint: string },
) {
  return { layer, retry, exit, ...words } as const;
}
