// Starts virtual machines from the image. A booted, idle machine is saved once; later starts map its memory
// copy-on-write and go on from there, so that a start takes a second or two and many runs disturb nobody.
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createFrameParser, encodeFrame, encodeFrames, kinds } from './frames.mjs';
import {
  buildImage,
  exists,
  findCommand,
  imageFolder,
  installHostPackages,
  vmFolder,
  withLock,
} from './image.mjs';

export { VmUnavailable } from './image.mjs';

const execute = promisify(execFile);
const cloneFolder = join(dirname(fileURLToPath(import.meta.url)), '../..');
const cloneNames = ['dist', 'docs/man', 'install.sh', 'scripts/scenes.sh', 'systemd'];
const memoryBytes = 2 * 1024 ** 3;
const bootDeadlineMs = 240_000;
const restoreDeadlineMs = 60_000;
const kvmDeadlineMs = 5_000;

const qemu =
  process.arch === 'x64'
    ? { command: 'qemu-system-x86_64', machine: 'q35', console: 'ttyS0', kvmCpu: 'host', emulatedCpu: 'max' }
    : {
        command: 'qemu-system-aarch64',
        machine: 'virt,gic-version=max',
        console: 'ttyAMA0',
        kvmCpu: 'host',
        emulatedCpu: 'max',
      };

/**
 * Makes image and saved state unless they are there; gives the folders of both.
 *
 * Errors: a sentence that says what could not be installed or built.
 */
export async function ensureVm(say = () => {}) {
  await installHostPackages(say);
  const folder = await imageFolder();
  const ready = join(folder, `ready-${await readyKey()}`);
  if (!(await exists(ready))) {
    await withLock(async () => {
      await buildImage(say);
      if (!(await exists(ready))) await saveReadyState(folder, ready, say);
      await removeOthers(folder, ready);
    });
  }
  return { folder, ready };
}

/** A saved machine goes on only under the emulator, processor and devices it was saved with. */
async function readyKey() {
  const key = createHash('sha256').update(await readFile(fileURLToPath(import.meta.url)));
  key.update((await execute(await findCommand(qemu.command), ['--version'])).stdout);
  const processor = /^model name.*$/m.exec(await readFile('/proc/cpuinfo', 'utf8'))?.[0] ?? '';
  key.update((await kvmOpens()) ? processor : 'tcg');
  return key.digest('hex').slice(0, 12);
}

async function kvmOpens() {
  return open('/dev/kvm', 'r+').then(
    async (device) => {
      await device.close();
      return true;
    },
    () => false,
  );
}

/**
 * Opens a machine of its own: from the saved state, or with `boot: 'cold'` through kernel and systemd.
 *
 * What it writes is thrown away when it is closed or when this process ends, however it ends.
 * The guest reaches the host's loopback addresses as 10.0.2.2.
 */
export async function openVm({ boot = 'restore', say = () => {} } = {}) {
  const { folder, ready } = await ensureVm(say);
  const accelerator = (await readFile(join(ready, 'accelerator'), 'utf8')).trim();
  const restore = boot === 'restore';
  const machine = await startQemu({
    folder,
    accelerator,
    disk: restore ? join(ready, 'disk.qcow2') : join(folder, 'root.img'),
    throwAway: true,
    memoryFile: restore ? { path: join(ready, 'memory'), shared: false } : undefined,
    incoming: restore,
  });
  try {
    if (restore) {
      await machine.monitor('migrate-set-capabilities', ignoreShared);
      await machine.monitor('migrate-incoming', { uri: `exec:cat '${join(ready, 'devices')}'` });
      // It was saved while paused, and comes back paused.
      await pollUntil(
        async () => (await machine.monitor('query-status')).status === 'paused',
        restoreDeadlineMs,
      );
      await machine.monitor('cont');
      await machine.ready(restoreDeadlineMs);
      // The guest's clock stands where the machine was saved.
      await machine.run(`date -s @${(Date.now() / 1000).toFixed(3)}`);
    } else {
      await machine.ready(bootDeadlineMs);
      await machine.run('systemctl is-system-running --wait', { timeoutMs: bootDeadlineMs });
    }
    return machine;
  } catch (error) {
    await machine.close();
    throw error;
  }
}

const ignoreShared = { capabilities: [{ capability: 'x-ignore-shared', state: true }] };

/** Boots once, waits until nothing is starting any more, and saves memory, devices and disk. */
async function saveReadyState(folder, ready, say) {
  const building = join(folder, '.building');
  await rm(building, { recursive: true, force: true });
  await mkdir(building);
  const accelerator = await chooseAccelerator(folder, say);
  say(`booting the virtual machine (once; half a minute or more under ${accelerator})`);
  const disk = join(building, 'disk.qcow2');
  await execute('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', '../root.img', '-F', 'raw', disk]);
  const machine = await startQemu({
    folder,
    accelerator,
    disk,
    throwAway: false,
    memoryFile: { path: join(building, 'memory'), shared: true },
    incoming: false,
  });
  try {
    await machine.ready(bootDeadlineMs);
    const state = await machine.run('systemctl is-system-running --wait', { timeoutMs: bootDeadlineMs });
    if (!['running', 'degraded'].includes(state.stdout.trim()))
      throw new Error(`the machine came up "${state.stdout.trim()}"`);
    // What every user of the machine needs is in its page cache from the start.
    await machine.run('node -e 0; mount.nfs4 -V; ss -V; ganesha.nfsd -v; sync', { timeoutMs: 60_000 });
    await machine.monitor('stop');
    await machine.monitor('migrate-set-capabilities', ignoreShared);
    await machine.monitor('migrate', { uri: `exec:cat > '${join(building, 'devices')}'` });
    await pollUntil(async () => {
      const { status, 'error-desc': reason } = await machine.monitor('query-migrate');
      if (status === 'failed' || status === 'cancelled')
        throw new Error(`cannot save the machine: ${reason ?? status}`);
      return status === 'completed';
    }, restoreDeadlineMs);
    await machine.quit();
  } finally {
    await machine.close();
  }
  await writeFile(join(building, 'accelerator'), accelerator);
  await rename(building, ready);
}

/** KVM where it really runs a kernel (the device may exist and not work), otherwise emulation. */
async function chooseAccelerator(folder, say) {
  if (!(await kvmOpens())) return 'tcg';
  if (await bootsWithKvm(folder)) return 'kvm';
  say('/dev/kvm is there and does not work: emulating the processor instead');
  return 'tcg';
}

async function bootsWithKvm(folder) {
  const options = {
    folder,
    accelerator: 'kvm',
    disk: join(folder, 'root.img'),
    throwAway: true,
    incoming: false,
  };
  const machine = await startQemu(options).catch(() => undefined);
  if (machine === undefined) return false;
  const boots = () => machine.consoleText().includes('Linux version');
  await pollUntil(boots, kvmDeadlineMs).catch(() => {});
  await machine.close();
  return boots();
}

/** Asks again every few milliseconds until the answer is yes; an error at the deadline. */
async function pollUntil(condition, timeoutMs) {
  for (const startMs = Date.now(); !(await condition()); ) {
    if (Date.now() - startMs > timeoutMs)
      throw new Error(`the emulator does not get on within ${timeoutMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Frees the room of what an older recipe or emulator left; machines that still run on it keep their files. */
async function removeOthers(folder, ready) {
  const kept = [basename(folder), basename(ready)];
  for (const parent of [vmFolder, folder]) {
    for (const name of await readdir(parent)) {
      const old = /^(ready-)?[0-9a-f]{12}$/.test(name) && !kept.includes(name);
      if (old) await rm(join(parent, name), { recursive: true, force: true });
    }
  }
}

async function startQemu({ folder, accelerator, disk, throwAway, memoryFile, incoming }) {
  const kvm = accelerator === 'kvm';
  const memory = memoryFile
    ? `memory-backend-file,id=ram,size=${memoryBytes},mem-path=${memoryFile.path},share=${memoryFile.shared ? 'on' : 'off'}`
    : `memory-backend-ram,id=ram,size=${memoryBytes}`;
  const diskFormat = disk.endsWith('.qcow2') ? 'qcow2' : 'raw';
  const argv = [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-name', 'efs-agent-vm'],
    ...[
      '-machine',
      `${qemu.machine},memory-backend=ram`,
      '-object',
      memory,
      '-m',
      `${memoryBytes / 1024 ** 2}M`,
      '-smp',
      '2',
    ],
    ...['-accel', kvm ? 'kvm' : 'tcg,thread=multi', '-cpu', kvm ? qemu.kvmCpu : qemu.emulatedCpu],
    ...['-kernel', join(folder, 'vmlinuz'), '-initrd', join(folder, 'initrd')],
    ...[
      '-append',
      `console=${qemu.console} root=/dev/vda rw loglevel=4 net.ifnames=0 systemd.show_status=false`,
    ],
    ...[
      '-drive',
      `file=${disk},format=${diskFormat},if=none,id=disk,cache=unsafe,snapshot=${throwAway ? 'on' : 'off'}`,
    ],
    ...['-device', 'virtio-blk-pci,drive=disk'],
    ...['-netdev', 'user,id=net', '-device', 'virtio-net-pci,netdev=net,romfile='],
    ...['-device', 'virtio-rng-pci', '-device', 'virtio-serial-pci'],
    // Node makes each of these pipes a connected pair of unix sockets: no socket files, no ports.
    ...['-chardev', 'socket,id=shell,fd=3', '-device', 'virtserialport,chardev=shell,name=vm-shell'],
    ...['-chardev', 'socket,id=console,fd=4', '-serial', 'chardev:console'],
    ...['-chardev', 'socket,id=monitor,fd=5', '-mon', 'chardev=monitor,mode=control'],
    ...(incoming ? ['-incoming', 'defer'] : []),
  ];
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', qemu.command, ...argv], {
    stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe', 'pipe'],
    // The throw-away disk is an unlinked file in this folder.
    env: { ...process.env, TMPDIR: vmFolder, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
  });
  const [, , stderr, shellPort, consolePort, monitorPort] = child.stdio;
  const exited = once(child, 'exit').catch((error) => [error.message]);
  let errors = '';
  stderr.on('data', (bytes) => {
    errors += bytes;
  });
  let consoleText = '';
  consolePort.on('data', (bytes) => {
    consoleText = (consoleText + bytes).slice(-256 * 1024);
  });
  for (const port of [shellPort, consolePort, monitorPort]) port.on('error', () => {}); // QEMU has ended: `exited` says so

  const fail = (what) =>
    new Error(`${what}\n${`${errors}\n${consoleText}`.trim().split('\n').slice(-25).join('\n')}`);
  const monitor = createMonitor(monitorPort, exited, fail);
  const shell = createShell(shellPort, exited, fail);
  await monitor('qmp_capabilities');

  return {
    monitor,
    ...shell,
    consoleText: () => consoleText,
    /** Restarts the guest through its own systemd and waits until it is up again. */
    async reboot() {
      const readBootId = async () =>
        (await shell.run('cat /proc/sys/kernel/random/boot_id', { timeoutMs: 10_000 })).stdout;
      const before = await readBootId();
      await shell.run('systemctl --no-block reboot');
      // The system goes down first: it answers for as long as it takes to unmount, and then not at all.
      const isUp = () =>
        readBootId().then(
          (bootId) => bootId !== '' && bootId !== before,
          () => false,
        );
      await pollUntil(isUp, 2 * bootDeadlineMs);
      // Not by --wait, which ends at once with an error while the message bus is not there yet.
      const isReady = () =>
        shell.run('systemctl is-system-running', { timeoutMs: 10_000 }).then(
          ({ stdout }) => ['running', 'degraded'].includes(stdout.trim()),
          () => false,
        );
      await pollUntil(isReady, bootDeadlineMs);
    },
    /** Ends the emulator after it has written everything out. */
    async quit() {
      await Promise.all([monitor('quit').catch(() => {}), exited]);
    },
    async close() {
      child.kill('SIGKILL');
      await exited;
      for (const port of child.stdio) port?.destroy();
    },
  };
}

/** The machine monitor: one command at a time, each with one answer; events are not needed here. */
function createMonitor(port, exited, fail) {
  const waiting = [];
  let text = '';
  port.on('data', (bytes) => {
    text += bytes;
    for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
      const message = JSON.parse(text.slice(0, end));
      text = text.slice(end + 1);
      if ('return' in message) waiting.shift()?.resolve(message.return);
      else if ('error' in message)
        waiting.shift()?.reject(fail(`the machine monitor refuses: ${message.error.desc}`));
    }
  });
  exited.then(() => {
    for (const { reject } of waiting.splice(0)) reject(fail('the emulator has ended'));
  });
  return (execute, parameters) =>
    new Promise((resolve, reject) => {
      waiting.push({ resolve, reject });
      port.write(`${JSON.stringify({ execute, arguments: parameters })}\n`);
    });
}

/** Commands in the guest, over its shell server. */
function createShell(port, exited, fail) {
  const channels = new Map();
  let lastChannel = 0;
  const open = (events) => {
    lastChannel += 1;
    channels.set(lastChannel, events);
    return lastChannel;
  };
  port.on(
    'data',
    createFrameParser((kind, channel, payload) => channels.get(channel)?.onFrame(kind, payload)),
  );
  exited.then(() => {
    for (const { onLost } of channels.values()) onLost(fail('the virtual machine has ended'));
  });

  /** Resolves with `onFrame`'s value, or rejects at the deadline or when the machine ends. */
  const exchange = (timeoutMs, what, begin, onFrame) =>
    new Promise((resolve, reject) => {
      const settle = (action, value) => {
        clearTimeout(timer);
        channels.delete(channel);
        action(value);
      };
      const channel = open({
        onFrame: (kind, payload) => onFrame(kind, payload, (value) => settle(resolve, value)),
        onLost: (error) => settle(reject, error),
      });
      const timer = setTimeout(() => {
        port.write(encodeFrame(kinds.kill, channel));
        settle(reject, fail(`${what} did not end within ${timeoutMs} ms in the virtual machine`));
      }, timeoutMs);
      begin(channel);
    });

  const ready = (timeoutMs) => {
    const ping = (channel) => port.write(encodeFrame(kinds.ping, channel));
    return exchange(timeoutMs, 'the start', ping, (kind, _payload, done) => {
      if (kind === kinds.pong) done();
    });
  };

  /** Runs a command with streams: `input` is readable or bytes, `onStdout` and `onStderr` take bytes. */
  const stream = async (command, { timeoutMs = 60_000, input, onStdout, onStderr, env, cwd } = {}) => {
    const argv = Array.isArray(command) ? command : ['bash', '-c', command];
    const begin = async (channel) => {
      port.write(encodeFrame(kinds.start, channel, Buffer.from(JSON.stringify({ argv, env, cwd }))));
      const chunks =
        typeof input === 'string' || Buffer.isBuffer(input) ? [Buffer.from(input)] : (input ?? []);
      for await (const bytes of chunks) {
        if (!channels.has(channel)) return;
        for (const frame of encodeFrames(kinds.stdin, channel, bytes)) {
          if (!port.write(frame)) await Promise.race([once(port, 'drain').catch(() => {}), exited]);
        }
      }
      port.write(encodeFrame(kinds.stdinEnd, channel));
    };
    const result = await exchange(timeoutMs, argv.join(' ').slice(0, 200), begin, (kind, payload, done) => {
      if (kind === kinds.stdout) onStdout?.(payload);
      else if (kind === kinds.stderr) onStderr?.(payload);
      else if (kind === kinds.exit) done(JSON.parse(payload.toString()));
    });
    if (result.error) throw fail(`cannot run ${argv[0]} in the virtual machine: ${result.error}`);
    return { code: result.code ?? 128, signal: result.signal };
  };

  const run = async (command, options = {}) => {
    const stdout = [];
    const stderr = [];
    const collect = { onStdout: (bytes) => stdout.push(bytes), onStderr: (bytes) => stderr.push(bytes) };
    const { code } = await stream(command, { ...collect, ...options });
    return { code, stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString() };
  };

  /** Copies a file or a folder (or `only` some of what is in it) into the guest; `guestPath` is the copy's own name there. */
  const copyIn = async (hostPath, guestPath, { timeoutMs = 120_000, only } = {}) => {
    const what = await stat(hostPath);
    const isFolder = what.isDirectory();
    const names = isFolder ? (only ?? ['.']) : [basename(hostPath)];
    // The port carries some 3 MB a second; gzip makes that more.
    const pack = ['-C', isFolder ? hostPath : dirname(hostPath), '-cz', '--', ...names];
    const unpack = isFolder
      ? 'mkdir -p "$1" && tar -xzC "$1" --no-same-owner'
      : 'mkdir -p "$(dirname "$1")" && tar -xzO > "$1" && chmod "$2" "$1"';
    const mode = (what.mode & 0o777).toString(8);
    // Read from at once: what a program has written that ends before anybody listens is thrown away.
    const tar = spawn('tar', pack, { stdio: ['ignore', 'pipe', 'inherit'] });
    const { code, stderr } = await run(['bash', '-c', unpack, 'copy', guestPath, mode], {
      timeoutMs,
      input: tar.stdout,
    });
    if (code !== 0) throw new Error(`cannot copy ${hostPath} into the virtual machine: ${stderr}`);
  };

  /** Copies what ./install.sh and the scenes need of this clone to /root/efs-agent; it must have been built. */
  const copyClone = () => copyIn(cloneFolder, '/root/efs-agent', { only: cloneNames });

  /** Copies a file or folder out of the guest; `hostPath` is the copy's own name here. */
  const copyOut = async (guestPath, hostPath, { timeoutMs = 120_000 } = {}) => {
    const tar = spawn(
      'tar',
      ['-x', '--no-same-owner', '-C', dirname(hostPath), `--transform=s|^[^/]*|${basename(hostPath)}|`],
      {
        stdio: ['pipe', 'ignore', 'inherit'],
      },
    );
    const ended = once(tar, 'exit');
    const pack = ['tar', '-C', dirname(guestPath), '-c', basename(guestPath)];
    let errors = '';
    const { code } = await stream(pack, {
      timeoutMs,
      onStdout: (bytes) => tar.stdin.write(bytes),
      onStderr: (bytes) => {
        errors += bytes;
      },
    });
    tar.stdin.end();
    const [status] = await ended;
    if (code !== 0 || status !== 0)
      throw new Error(`cannot copy ${guestPath} out of the virtual machine: ${errors}`);
  };

  return { ready, stream, run, copyIn, copyClone, copyOut };
}
