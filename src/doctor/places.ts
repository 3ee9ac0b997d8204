/** Where Linux and the programs of others are looked at. */
export interface Places {
  fstab: string;
  /** File systems the kernel knows now. */
  filesystems: string;
  /** Directory with the modules of each kernel release. */
  modules: string;
  /** Is there where the kernel can load modules. */
  loadedModules: string;
  /** Where mount(8) looks for the helper of `-t efs`, in its order. */
  mountHelpers: readonly string[];
  /** The watchdog of amazon-efs-utils. */
  rivalWatchdog: string;
  processes: string;
}

export const systemPlaces: Places = {
  fstab: '/etc/fstab',
  filesystems: '/proc/filesystems',
  modules: '/lib/modules',
  loadedModules: '/proc/modules',
  // Source: libmount's search path, and /usr/sbin where /sbin is no link to it.
  mountHelpers: ['/sbin/mount.efs', '/sbin/fs.d/mount.efs', '/sbin/fs/mount.efs', '/usr/sbin/mount.efs'],
  rivalWatchdog: '/usr/bin/amazon-efs-mount-watchdog',
  processes: '/proc',
};
