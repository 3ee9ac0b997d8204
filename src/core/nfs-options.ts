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
 * Source: specification 1.6; our choice: a user's `resvport` and `softerr` are respected, where the reference
 * overrides them with a default that comes later.
 */
export function planNfsOptions(user: readonly MountOption[], tunnelPort: number): string {
  const given = new Set(user.map(({ name }) => name));
  return formatOptions([
    ...user.filter(({ name }) => name !== 'port'),
    ...defaults.filter(({ unless }) => !unless.some((name) => given.has(name))).map(({ option }) => option),
    { name: 'port', value: String(tunnelPort) },
  ]);
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
