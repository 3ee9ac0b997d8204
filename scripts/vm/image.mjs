// The virtual machine's image: the host's own Debian release with a kernel NFS client, systemd, NFS-Ganesha and
// the host's node. Built once into the cache folder; the folder's name is a hash of everything it is made from.
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  access,
  chmod,
  copyFile,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  statfs,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const here = dirname(fileURLToPath(import.meta.url));

/** Names the one folder outside the clone that the virtual machine writes to. */
export const cacheFolder = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'efs-agent');
export const vmFolder = join(cacheFolder, 'vm');

/** What differs between processors; any other one has no image. */
const architectures = {
  x64: {
    debian: 'amd64',
    qemu: 'qemu-system-x86',
    kernels: ['linux-image-cloud-amd64', 'linux-image-virtual', 'linux-image-amd64'],
  },
  arm64: {
    debian: 'arm64',
    qemu: 'qemu-system-arm',
    kernels: ['linux-image-cloud-arm64', 'linux-image-virtual', 'linux-image-arm64'],
  },
};
export const architecture = architectures[process.arch];

const guestPackages = [
  'systemd systemd-sysv udev dbus kmod busybox-static',
  'nfs-common nfs-ganesha nfs-ganesha-vfs',
  'iproute2 nftables procps psmisc util-linux mount netbase login',
  'ca-certificates openssl libstdc++6 strace tcpdump rpm',
].flatMap((line) => line.split(' '));

const neededBytes = 3 * 1024 ** 3;

const guestFiles = ['frames.mjs', 'guest-shell.mjs'];

/** Every other unit that would start by itself and only cost time, or take a port a test wants. */
const maskedUnits = [
  'serial-getty@ttyS0.service serial-getty@ttyAMA0.service getty@tty1.service getty.target',
  'nfs-ganesha.service nfs-ganesha-lock.service nfs-blkmap.service rpcbind.service rpcbind.socket',
  'apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer',
  'systemd-networkd-wait-online.service systemd-resolved.service nftables.service remote-cryptsetup.target',
].flatMap((line) => line.split(' '));

/** Modules that the scenes need, loaded before the ready state is saved. */
const guestModules = ['nfs', 'nfsv4', 'tls', 'overlay', 'virtio_net', 'virtio_console', 'virtio_rng'];
const initrdModules = ['virtio_pci', 'virtio_mmio', 'virtio_blk', 'ext4'];

/** There can be no virtual machine here; the message says why. */
export class VmUnavailable extends Error {}

/**
 * Installs the distribution packages whose command is missing, and says so.
 *
 * Errors: VmUnavailable when there is no apt-get, no root, or apt-get fails.
 */
export async function installHostPackages(say) {
  if (architecture === undefined) throw new VmUnavailable(`no image for the processor ${process.arch}`);
  const needed = [
    [`qemu-system-${process.arch === 'x64' ? 'x86_64' : 'aarch64'}`, architecture.qemu],
    ['qemu-img', 'qemu-utils'],
    ['mmdebstrap', 'mmdebstrap'],
    ['mke2fs', 'e2fsprogs'],
    ['setpriv', 'util-linux'],
    ['flock', 'util-linux'],
  ];
  const missing = [];
  for (const [command, name] of needed) if ((await findCommand(command)) === undefined) missing.push(name);
  if (missing.length === 0) return;
  const names = missing.join(', ');
  if ((await findCommand('apt-get')) === undefined)
    throw new VmUnavailable(`${names} missing, and no apt-get to install them with`);
  if (process.getuid() !== 0) throw new VmUnavailable(`${names} missing: install them, or run this as root`);
  say(`installing ${names} (a virtual machine with a kernel NFS client needs them)`);
  const options = ['-o', 'DPkg::Lock::Timeout=300', '-qq'];
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const install = ['install', '-y', '--no-install-recommends', ...missing];
  try {
    await run('apt-get', [...options, 'update'], { env });
    await run('apt-get', [...options, ...install], { env, maxBuffer: 1 << 26 });
  } catch (error) {
    throw new VmUnavailable(`apt-get cannot install ${names}: ${lastLines(error.stderr || error.message)}`, {
      cause: error,
    });
  }
}

/**
 * Builds the image unless it is there already, and gives its folder: `root.img`, `vmlinuz`, `initrd`.
 *
 * The caller holds the cache folder's lock, so that what an interrupted build left can be removed.
 */
export async function buildImage(say) {
  const folder = await imageFolder();
  if (await exists(folder)) return folder;

  for (const name of await readdir(vmFolder)) {
    if (name.startsWith('.building-')) await rm(join(vmFolder, name), { recursive: true, force: true });
  }
  const building = join(vmFolder, `.building-${process.pid}`);
  await mkdir(building, { recursive: true });
  const { bavail, bsize } = await statfs(vmFolder);
  if (bavail * bsize < neededBytes)
    throw new VmUnavailable(`less than ${neededBytes / 1024 ** 3} GiB free in ${vmFolder}`);
  say('building the virtual machine image (once; one to three minutes)');
  try {
    await mkdir(join(building, 'work'));
    await installGuest(building);
    await prepareKernel(building);
    await rm(join(building, 'work'), { recursive: true });
    const root = join(building, 'root');
    const image = join(building, 'root.img');
    // Sparse; without a journal, because every run throws its writes away.
    await run('mke2fs', [
      '-q',
      '-t',
      'ext4',
      '-O',
      '^has_journal',
      '-m',
      '0',
      '-L',
      'root',
      '-d',
      root,
      image,
      '6G',
    ]);
    await rm(root, { recursive: true });
    await rename(building, folder);
  } catch (error) {
    await rm(building, { recursive: true, force: true });
    throw new Error(`cannot build the virtual machine image: ${lastLines(error.stderr || error.message)}`, {
      cause: error,
    });
  }
  return folder;
}

/** Names the image folder for this recipe on this host; it exists only once it is complete. */
export async function imageFolder() {
  const recipe = createHash('sha256');
  for (const name of ['image.mjs', ...guestFiles]) recipe.update(await readFile(join(here, name)));
  recipe
    .update(process.version)
    .update(process.arch)
    .update(await readFile('/etc/os-release'));
  return join(vmFolder, recipe.digest('hex').slice(0, 12));
}

/** Says whether a path exists. */
export async function exists(path) {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** Runs a function while this process alone holds the cache folder's lock, across processes. */
export async function withLock(action) {
  await mkdir(vmFolder, { recursive: true });
  // flock(1) holds the lock on our behalf: it ends when its input does, whatever ends us.
  const holder = spawn('flock', [join(vmFolder, 'lock'), 'sh', '-c', 'echo locked; exec cat >/dev/null'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  await new Promise((resolve, reject) => {
    holder.once('error', reject);
    holder.stdout.once('data', resolve);
  });
  try {
    return await action();
  } finally {
    holder.stdin.end();
  }
}

async function installGuest(building) {
  const root = join(building, 'root');
  const sources = join(building, 'work/sources.list');
  const aptOptions = join(building, 'work/apt.conf');
  await writeFile(sources, await readAptSources());
  // Proxies and the like, as the host's own apt uses them.
  await writeFile(aptOptions, (await run('apt-config', ['dump', 'Acquire'])).stdout);
  const { VERSION_CODENAME: suite } = parseOsRelease(await readFile('/etc/os-release', 'utf8'));
  const skipped = ['man', 'doc', 'locale', 'info', 'i18n'].map(
    (name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`,
  );
  await run(
    'mmdebstrap',
    [
      ...[
        '--mode=root',
        '--variant=minbase',
        `--include=${guestPackages.join(',')}`,
        `--aptopt=${aptOptions}`,
      ],
      ...['--aptopt=Apt::Install-Recommends "false"', ...skipped, suite ?? '', root, sources],
    ],
    { maxBuffer: 1 << 26, env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' } },
  );

  await copyNode(root);
  await mkdir(join(root, 'opt/vm-shell'), { recursive: true });
  for (const name of guestFiles) await copyFile(join(here, name), join(root, 'opt/vm-shell', name));
  const files = {
    'etc/hostname': 'efs-vm\n',
    'etc/hosts': '127.0.0.1 localhost efs-vm\n::1 localhost\n',
    'etc/resolv.conf': '',
    'etc/machine-id': `${createHash('sha256').update('efs-agent vm').digest('hex').slice(0, 32)}\n`,
    'etc/modules-load.d/efs-vm.conf': guestModules.map((name) => `${name}\n`).join(''),
    'etc/systemd/network/10-vm.network': networkUnit,
    'etc/systemd/system/vm-shell.service': shellUnit,
  };
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(root, name)), { recursive: true });
    await rm(join(root, name), { force: true });
    await writeFile(join(root, name), text);
  }
  await run('chroot', [
    root,
    'systemctl',
    '--quiet',
    'enable',
    'vm-shell.service',
    'systemd-networkd.service',
  ]);
  for (const name of maskedUnits) {
    const link = join(root, 'etc/systemd/system', name);
    await rm(link, { force: true });
    await symlink('/dev/null', link);
  }
}

// Slirp's fixed addresses: 10.0.2.2 is the host's loopback.
const networkUnit = `[Match]
Driver=virtio_net
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
LinkLocalAddressing=no
IPv6AcceptRA=no
`;

const shellUnit = `[Unit]
Description=Runs the commands of the virtual machine's owner
After=systemd-modules-load.service network.target
[Service]
ExecStart=/usr/bin/node /opt/vm-shell/guest-shell.mjs /dev/virtio-ports/vm-shell
Environment=HOME=/root LANG=C.UTF-8
Restart=always
RestartSec=0.2
KillMode=process
OOMScoreAdjust=-900
TasksMax=infinity
[Install]
WantedBy=multi-user.target
`;

/** The host's node with those of its libraries that the guest does not have. */
async function copyNode(root) {
  const node = join(root, 'usr/bin/node');
  await copyFile(process.execPath, node);
  await chmod(node, 0o755);
  const { stdout } = await run('ldd', [process.execPath]);
  for (const [, path] of stdout.matchAll(/=> (\/\S+)/g)) {
    if (await exists(join(root, path))) continue;
    await mkdir(dirname(join(root, path)), { recursive: true });
    await copyFile(path, join(root, path));
  }
  await run('chroot', [root, 'node', '-e', '0']);
}

/** Kernel, modules and a hand-made initrd: Debian's own one takes minutes to build here and seconds to boot. */
async function prepareKernel(building) {
  const root = join(building, 'root');
  const work = join(building, 'work');
  const unpacked = join(work, 'kernel');
  const kernelPackage = await findKernelPackage();
  // As root in our folder: apt's own user cannot write there.
  await run('apt-get', ['-qq', '-o', 'APT::Sandbox::User=root', 'download', ...kernelPackage], { cwd: work });
  for (const name of await readdir(work)) {
    if (name.endsWith('.deb')) await run('dpkg-deb', ['-x', join(work, name), unpacked]);
  }
  const modulesFolder = (await exists(join(unpacked, 'usr/lib/modules'))) ? 'usr/lib/modules' : 'lib/modules';
  const [release] = await readdir(join(unpacked, modulesFolder));
  await mkdir(join(root, 'usr/lib/modules'), { recursive: true });
  await run('cp', ['-a', join(unpacked, modulesFolder, release), join(root, 'usr/lib/modules')]);
  await run('chroot', [root, 'depmod', release]);
  const bootName = (await readdir(join(unpacked, 'boot'))).find((name) => name.startsWith('vmlinuz-'));
  await copyFile(join(unpacked, 'boot', bootName), join(building, 'vmlinuz'));

  const initrd = join(root, 'initrd');
  await mkdir(join(initrd, 'bin'), { recursive: true });
  for (const name of ['proc', 'sys', 'dev', 'root']) await mkdir(join(initrd, name));
  await copyFile(join(root, 'bin/busybox'), join(initrd, 'bin/busybox'));
  await chmod(join(initrd, 'bin/busybox'), 0o755);
  const paths = [];
  for (const name of initrdModules) {
    // Dependencies first; a module that is built into this kernel prints "builtin".
    const { stdout } = await run('chroot', [
      root,
      'modprobe',
      '--set-version',
      release,
      '--show-depends',
      name,
    ]).catch(() => ({ stdout: '' }));
    for (const [, path] of stdout.matchAll(/^insmod (\S+)/gm)) if (!paths.includes(path)) paths.push(path);
  }
  for (const path of paths) await copyFile(join(root, path), join(initrd, path.split('/').pop()));
  await writeFile(join(initrd, 'init'), initScript(paths.map((path) => path.split('/').pop())), {
    mode: 0o755,
  });
  const list = 'cd /initrd && busybox find . | busybox cpio -o -H newc | busybox gzip -1';
  const packed = await run('chroot', [root, 'sh', '-c', list], { encoding: 'buffer', maxBuffer: 1 << 28 });
  await writeFile(join(building, 'initrd'), packed.stdout);
  await rm(initrd, { recursive: true });
}

const initScript = (modules) => `#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc; $bb mount -t sysfs sys /sys; $bb mount -t devtmpfs dev /dev
for module in ${modules.join(' ')}; do $bb insmod /$module; done
until [ -b /dev/vda ]; do $bb sleep 0.1; done
$bb mount -t ext4 -o noatime /dev/vda /root
$bb umount /proc /sys; $bb mount --move /dev /root/dev
exec $bb switch_root /root /lib/systemd/systemd
`;

/** The kernel image package that the first known meta-package stands for. */
async function findKernelPackage() {
  for (const name of architecture.kernels) {
    const { stdout } = await run('apt-cache', ['depends', '--important', name]).catch(() => ({ stdout: '' }));
    const images = [...stdout.matchAll(/Depends: (linux-(?:image|modules)-\d\S+)/g)].map(
      ([, image]) => image,
    );
    if (images.length > 0) return images;
  }
  throw new Error(`the package sources have none of ${architecture.kernels.join(', ')}; try apt-get update`);
}

/** The host's package sources, in one-line style; those of others than the distribution are left out. */
async function readAptSources() {
  const format = '$(ORIGIN)\tdeb $(REPO_URI) $(RELEASE) $(COMPONENT)';
  const { stdout } = await run('apt-get', ['indextargets', '--format', format, 'Identifier: Packages']);
  const { ID: id = '' } = parseOsRelease(await readFile('/etc/os-release', 'utf8'));
  const lines = stdout
    .trim()
    .split('\n')
    .map((line) => line.split('\t'));
  const own = lines.filter(([origin]) => origin?.toLowerCase() === id);
  const chosen = (own.length > 0 ? own : lines).map(([, line]) => line);
  return `${[...new Set(chosen)].join('\n')}\n`;
}

function parseOsRelease(text) {
  return Object.fromEntries(
    [...text.matchAll(/^(\w+)="?([^"\n]*)"?$/gm)].map(([, name, value]) => [name, value]),
  );
}

/** Finds a command the way root's shell would, even where PATH lacks the sbin folders. */
export async function findCommand(name) {
  const folders = [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/sbin'];
  for (const folder of folders) if (await exists(join(folder, name))) return join(folder, name);
  return undefined;
}

function lastLines(text) {
  return text.trim().split('\n').slice(-8).join('\n');
}
