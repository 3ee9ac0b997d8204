import { formatOptions, type MountOption } from './mount-spec.ts';

/** Each default with the names that say the same thing: if the user gave one of them, the default stays out. */
const defaults: readonly { option: MountOption; unless: readonly string[] }[] = [
  { option: { name: 'nfsvers', value: '4.1' }, unless: ['nfsvers', 'vers'] },
  { option: { name: 'rsize', value: '1048576' }, unless: ['rsize'] },
  { option: { name: 'wsize', value: '1048576' }, unless: ['wsize'] },
  { option: { name: 'hard', value: null }, unless: ['hard', 'soft', 'softerr'] },
  { option: { name: 'timeo', value: '600' }, unless: ['timeo'] },
  { option: { name: 'retrans', value: '2' }, unless: ['retrans'] },
  { option: { name: 'noresvport', value: null }, unless: ['noresvport', 'resvport'] },
];

/**
 * The option string for mount.nfs4: the user's options in their order, the defaults they left open, the tunnel's port.
 *
 * @param tunnelPort null without a tunnel: the user's own `port` holds then.
 *
 * Source: specification 1.6; our choice: a user's `resvport` and `softerr` are respected, where the reference
 * overrides them with a default that comes later.
 */
export function planNfsOptions(user: readonly MountOption[], tunnelPort: number | null): string {
  const given = new Set(user.map(({ name }) => name));
  const open = defaults.filter(({ unless }) => !unless.some((name) => given.has(name)));
  return formatOptions(
    withPort(
      user,
      tunnelPort,
      open.map(({ option }) => option),
    ),
  );
}

/**
 * The option string for a remount: what the user asks to change. The defaults stay out, since the kernel refuses a
 * remount that names another `rsize` than the one it has agreed upon with the server.
 *
 * Source: Linux, fs/nfs/super.c, nfs_compare_remount_data.
 */
export function planRemountOptions(user: readonly MountOption[], tunnelPort: number | null): string {
  const versioned = user.some(({ name }) => name === 'nfsvers' || name === 'vers');
  return formatOptions(withPort(user, tunnelPort, versioned ? [] : [defaults[0]!.option]));
}

function withPort(
  user: readonly MountOption[],
  tunnelPort: number | null,
  added: readonly MountOption[],
): MountOption[] {
  if (tunnelPort === null) return [...user, ...added];
  return [
    ...user.filter(({ name }) => name !== 'port'),
    ...added,
    { name: 'port', value: String(tunnelPort) },
  ];
}

/**
 * Says whether a kernel lets the read-ahead of an NFS mount be set with effect: 5.4 and later.
 *
 * @param release as uname(1) -r writes it; one that cannot be read counts as too old. Source: specification 7.6.
 */
export function honoursReadAhead(release: string): boolean {
  const [major = 0, minor = 0] = (/^([0-9]+)\.([0-9]+)/.exec(release) ?? []).slice(1).map(Number);
  return major > 5 || (major === 5 && minor >= 4);
}

/**
 * The read-ahead for a mount: fifteen reads of `rsize` bytes.
 *
 * Units: KiB. Errors: none; null, leave the kernel's value, when `rsize` is not a positive number of bytes.
 * Source: specification 7.6.
 */
export function planReadAheadKib(options: readonly MountOption[]): number | null {
  const rsize = options.find(({ name }) => name === 'rsize');
  const text = rsize === undefined ? '1048576' : (rsize.value ?? '');
  if (!/^[0-9]{1,10}$/.test(text)) return null;
  return Math.floor((15 * Number(text)) / 1024) || null;
}
