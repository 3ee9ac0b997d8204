// The kernel NFS client: a virtual machine that mounts the tunnels' ports of this host, and what runs in its mounts.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { openVm } from '../../scripts/vm/machine.mjs';
import { mounts } from './service.mjs';

/** The host's loopback, seen from the machine: user networking of QEMU. */
const hostAddress = '10.0.2.2';
const program = '/root/verify';
const hourMs = 3_600_000;
/** Where the machine's kernel tells what becomes of requests whose connection breaks. */
const traceFolder = '/sys/kernel/tracing/instances/chaos';

/**
 * Starts the machine and puts the writer and reader into it.
 *
 * `standIn` is the body of a shell script for mount.nfs4 on this host: the machine mounts in its place, and the
 * machine's mount table shows here as that of one more mount namespace, as an agent on the same kernel would see it.
 */
export async function openGuest({ directory, verify, say }) {
  const vm = await openVm({ say });
  await vm.copyIn(verify, program);
  const table = openTable(directory);
  const must = async (argv) => {
    const { code, stdout, stderr } = await vm.run(argv, { timeoutMs: 300_000 });
    if (code !== 0) throw new Error(`${argv.join(' ')}: ${stderr || stdout}`);
    return stdout;
  };
  await must(['sh', '-c', watchHeldBack]);
  const showMounts = async () => table.show(await must(['cat', '/proc/self/mountinfo']));

  const socketPath = join(directory, 'mount.sock');
  const server = createServer({ allowHalfOpen: true }, async (socket) => {
    const chunks = [];
    socket.on('data', (chunk) => chunks.push(chunk));
    await once(socket, 'end');
    const [device, mountPoint, ...options] = JSON.parse(Buffer.concat(chunks));
    const remote = device.replace(/^127\.0\.0\.1:/, `${hostAddress}:`);
    await vm.run(['mkdir', '-p', mountPoint]);
    const { code, stderr } = await vm.run(['mount.nfs4', remote, mountPoint, ...options], {
      timeoutMs: hourMs,
    });
    await showMounts();
    socket.end(JSON.stringify({ code, stderr }));
  });
  server.listen(socketPath);

  return {
    standIn: `exec '${process.execPath}' '${join(import.meta.dirname, 'stand-in.mjs')}' '${socketPath}' "$@"`,
    mountPoint: (name) => join(directory, 'mnt', name),
    /** What the kernel calls its mounts: another number after a remount. */
    async mountIds() {
      const text = await must(['cat', '/proc/self/mountinfo']);
      const nfs = text.split('\n').filter((line) => line.includes(' - nfs4 '));
      return nfs.map((line) => `${line.split(' ')[0]} ${line.split(' ')[4]}`);
    },
    /** How many requests the kernel has held back for `heldBackMs` by itself since the last call. */
    async takeHeldBack() {
      const lines = await must(['sh', '-c', `cd ${traceFolder} && cat trace && : > trace`]);
      return lines.split('\n').filter((line) => line.includes('rpc_connect_status')).length;
    },
    async unmountAll() {
      // The agent looks as soon as the kernel hangs up: it must not see what is about to go.
      table.show('');
      for (const { name } of mounts) await must(['umount', join(directory, 'mnt', name)]);
    },
    /** Starts the writer and reader of a mount; `onLine` hears each line with the time it came. */
    startVerify(name, onLine) {
      const input = new PassThrough();
      let rest = '';
      const onStdout = (bytes) => {
        const lines = (rest + bytes).split('\n');
        rest = lines.pop();
        for (const line of lines) onLine(line);
      };
      const argv = [program, join(directory, 'mnt', name, 'work'), name];
      const begun = must(['mkdir', '-p', argv[1]]);
      const ended = begun.then(() =>
        vm.stream(argv, { timeoutMs: 24 * hourMs, input, onStdout, onStderr: onStdout }),
      );
      // Whoever stops it hears of an error.
      ended.catch(() => {});
      return {
        async stop() {
          input.end();
          const { code } = await ended;
          if (code !== 0) throw new Error(`the writer and reader of ${name} ended with status ${code}`);
        },
      };
    },
    close: () => vm.close(),
  };
}

/**
 * A request that is being sent when its connection breaks (EPIPE) is tried again by the kernel after three seconds, also
 * when there is a new connection at once (net/sunrpc/clnt.c, call_connect_status; docs/decisions/0014).
 */
export const heldBackMs = 3_000;

const watchHeldBack = `set -e
modprobe sunrpc
mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
mkdir -p ${traceFolder}
echo 'status == -32' > ${traceFolder}/events/sunrpc/rpc_connect_status/filter
echo 1 > ${traceFolder}/events/sunrpc/rpc_connect_status/enable`;

/** Shows a mount table as that of a process in another mount namespace: over its /proc/<pid>/mountinfo. */
function openTable(directory) {
  mkdirSync(join(directory, 'mnt'));
  chmodSync(join(directory, 'mnt'), 0o755);
  for (const name of [...mounts.map((mount) => mount.name), 'extra']) mkdirSync(join(directory, 'mnt', name));
  const holder = spawn('unshare', ['--mount', 'sleep', 'infinity'], { stdio: 'ignore' });
  const own = readlinkSync('/proc/self/ns/mnt');
  while (readlinkSync(`/proc/${holder.pid}/ns/mnt`) === own) execFileSync('sleep', ['0.01']);
  let count = 0;
  return {
    /** A file of its own each time, put on top: no reader sees half of it. */
    show(text) {
      const file = join(directory, `mountinfo-${++count}`);
      writeFileSync(file, text.replaceAll(hostAddress, '127.0.0.1'));
      execFileSync('mount', ['--bind', file, `/proc/${holder.pid}/mountinfo`]);
    },
  };
}
