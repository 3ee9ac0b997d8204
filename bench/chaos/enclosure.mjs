// The bench's own corner of the machine: network, mount and process namespaces that end with it, a private /etc, and
// a cable to the network of the mount target.
import { execFileSync, spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const addresses = {
  instance: '10.1.1.10',
  targets: ['10.1.1.6', '10.1.1.7'],
  metadata: '169.254.169.254',
};
const nobody = '02:00:00:00:00:01';
const directoryVariable = 'EFS_CHAOS_DIRECTORY';
/** Where the program outside has its word inside. */
const wordDescriptor = 3;

/** The directory of the run, when this process is inside the enclosure; else null. */
export function enclosedDirectory() {
  return process.env[directoryVariable] ?? null;
}

/**
 * Runs this program again inside the enclosure and gives its exit status; nothing of it outlives this process.
 *
 * Told to end, it asks the run to finish (`onFinish`), and the second time kills it. What a terminal sends to all
 * programs of a command does not get in.
 *
 * Errors: that of spawn(2); without root unshare(1) says why it cannot.
 */
export async function runEnclosed(argv) {
  const directory = mkdtempSync(join(tmpdir(), 'efs-chaos-'));
  // Workers and the users of access points come through here.
  chmodSync(directory, 0o755);
  const namespaces = ['--net', '--pid', '--mount', '--propagation', 'private'];
  const ending = ['--fork', '--kill-child', '--mount-proc'];
  // The shell is process 1 of the enclosure: it buries whoever loses his parent.
  const init = ['sh', '-c', '"$@" & wait $!', 'sh', process.execPath, ...argv];
  const child = spawn('unshare', [...namespaces, ...ending, ...init], {
    stdio: ['ignore', 'inherit', 'inherit', 'pipe'],
    env: { ...process.env, [directoryVariable]: directory },
    detached: true,
  });
  const word = child.stdio[wordDescriptor];
  word.on('error', () => {});
  let asked = false;
  const stop = () => {
    if (asked) child.kill('SIGKILL');
    else word.write('finish\n');
    asked = true;
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, stop);
  try {
    const [status] = await once(child, 'exit');
    return status ?? 1;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Inside: calls `finish` when the run is to end with what there is. Without the program outside there is no run at all. */
export function onFinish(finish) {
  new Socket({ fd: wordDescriptor, readable: true, writable: false })
    .on('data', finish)
    .on('close', () => process.exit(1))
    .unref();
}

/**
 * Lays the cable between the instance, which is here, and the mount target's network, and gives the means to cut it.
 *
 * Packets are lost by the neighbour's wrong hardware address: nobody is told, no connection is ended, and no kernel
 * module beyond `veth` is needed.
 */
export async function layCable() {
  // It never answers: a name that is not in /etc/hosts cannot be resolved at the moment.
  createSocket('udp4').bind(53, '127.0.0.1');
  rmSync('/etc/resolv.conf', { force: true });
  writeFileSync('/etc/resolv.conf', 'nameserver 127.0.0.1\n');
  const holder = spawn('unshare', ['--net', 'sleep', 'infinity'], { stdio: 'ignore' });
  const namespace = `/proc/${holder.pid}/ns/net`;
  await untilOtherNetwork(holder.pid);
  const here = (...words) => execFileSync('ip', words);
  const there = (...words) => execFileSync('nsenter', [`--net=${namespace}`, 'ip', ...words]);
  here('link', 'set', 'lo', 'up');
  there('link', 'set', 'lo', 'up');
  here('link', 'add', 'efs0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(holder.pid));
  here('address', 'add', `${addresses.instance}/24`, 'dev', 'efs0');
  here('link', 'set', 'efs0', 'up');
  there('link', 'set', 'eth0', 'up');
  there('address', 'add', `${addresses.targets[0]}/32`, 'dev', 'eth0');
  there('route', 'add', addresses.instance, 'dev', 'eth0');
  there('address', 'add', `${addresses.metadata}/32`, 'dev', 'eth0');
  here('route', 'add', addresses.metadata, 'dev', 'efs0');
  const hereMac = JSON.parse(here('-json', 'link', 'show', 'efs0').toString())[0].address;
  const thereMac = JSON.parse(there('-json', 'link', 'show', 'eth0').toString())[0].address;

  const point = (ip, address, device, mac, state) =>
    ip('neighbour', 'replace', address, 'lladdr', mac, 'dev', device, 'nud', state);
  return {
    /** Prefix of a command that runs in the mount target's network. */
    inServiceNetwork: ['nsenter', `--net=${namespace}`],
    /** Packets of these ways are lost from now on: 'up' to the mount target, 'down' from it. */
    cut(...ways) {
      if (ways.includes('up')) point(here, addresses.targets[0], 'efs0', nobody, 'permanent');
      if (ways.includes('down')) point(there, addresses.instance, 'eth0', nobody, 'permanent');
    },
    mend() {
      point(here, addresses.targets[0], 'efs0', thereMac, 'reachable');
      point(there, addresses.instance, 'eth0', hereMac, 'reachable');
    },
    /** From now on nobody has the one address, and the mount target the other. */
    moveTarget(from, to) {
      there('address', 'add', `${to}/32`, 'dev', 'eth0');
      there('address', 'del', `${from}/32`, 'dev', 'eth0');
    },
    /** The metadata service has no route, or has one again. */
    setMetadata(isThere) {
      here('route', isThere ? 'replace' : 'del', addresses.metadata, 'dev', 'efs0');
    },
    /** What the file system's name resolves to; null for one that only a name server could tell. */
    setName(name, address) {
      const lines = ['127.0.0.1 localhost', ...(address === null ? [] : [`${address} ${name}`])];
      writeFileSync('/etc/hosts', `${lines.join('\n')}\n`);
    },
  };
}

/** From here on /etc is a copy that only the enclosure sees. */
export function openPrivateEtc(directory) {
  const copy = join(directory, 'etc');
  mkdirSync(copy);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'mode=0755', 'etc', copy]);
  execFileSync('cp', ['-a', '/etc/.', copy]);
  execFileSync('mount', ['--bind', copy, '/etc']);
}

async function untilOtherNetwork(pid) {
  const own = readlinkSync('/proc/self/ns/net');
  while (readlinkSync(`/proc/${pid}/ns/net`) === own) await new Promise((wake) => setTimeout(wake, 10));
}
