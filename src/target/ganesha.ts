import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { AgentError } from '../core/errors.ts';

/** A directory served as the root of an NFS server of its own. */
export interface BackendRoot {
  /** File-system or access-point id: names the server's files, and tells clients two servers apart. */
  name: string;
  directory: string;
  /** The POSIX user every operation is done as, whoever the caller is; null = the caller. */
  user: { uid: number; gid: number } | null;
}

/** A running NFS server on 127.0.0.1. */
export interface Backend {
  port: number;
  /** Resolves when the server has ended, for whatever reason. */
  ended: Promise<void>;
  close(): Promise<void>;
}

/** What is left of the policy's decision once mounting is allowed. */
export interface BackendAccess {
  write: boolean;
  root: boolean;
}

const program = 'ganesha.nfsd';
const nobody = 65_534;
/** As EFS: specification 1.6, rsize and wsize. */
const maxTransferBytes = 1_048_576;
const startAttempts = 3;
const startTimeoutMs = 120_000;
/** Doubles from the first to the last: ten servers that start at once shall not wait for one another's being asked. */
const firstPauseMs = 20;
const lastPauseMs = 640;

const permissionSets: readonly (BackendAccess & { clientAddress: string })[] = [
  { clientAddress: '127.0.0.11', write: true, root: true },
  { clientAddress: '127.0.0.12', write: false, root: true },
  { clientAddress: '127.0.0.13', write: true, root: false },
  { clientAddress: '127.0.0.14', write: false, root: false },
];

/** The loopback address from which a connection to a backend has exactly this access. */
export function clientAddressFor(access: BackendAccess): string {
  return permissionSets.find(({ write, root }) => write === access.write && root === access.root)!
    .clientAddress;
}

/**
 * Finds NFS-Ganesha.
 *
 * Errors: `nfs.program-missing`, which names the packages.
 */
export function findGanesha(searchPath: string): string {
  for (const directory of [...searchPath.split(':'), '/usr/sbin', '/usr/bin']) {
    const file = join(directory, program);
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // Not in this directory.
    }
  }
  throw new AgentError(
    'nfs.program-missing',
    `${program}, the NFS server behind the mount target, is not installed`,
    {
      hint: 'Install NFS-Ganesha: the packages nfs-ganesha and nfs-ganesha-vfs on Debian, Ubuntu and Fedora.',
    },
  );
}

/**
 * Starts NFS-Ganesha on a free loopback port and waits until it answers a NULL call.
 *
 * The server ends with this process, however this process ends.
 * Errors: `nfs.failed` with the last words of its log.
 */
export async function openBackend(
  ganesha: string,
  root: BackendRoot,
  stateDirectory: string,
): Promise<Backend> {
  const directory = join(stateDirectory, 'ganesha', root.name);
  const logFile = join(directory, 'log');
  mkdirSync(join(directory, 'recovery'), { recursive: true });
  for (let attempt = 1; attempt <= startAttempts; attempt++) {
    const port = await findFreePort();
    rmSync(logFile, { force: true });
    writeFileSync(join(directory, 'conf'), configurationOf(root, directory, port));
    const backend = startProcess(ganesha, directory, logFile, port);
    // Another process may have taken the port in between: the server then ends, and gets another one.
    if (await isAnswering(backend)) return backend;
    await backend.close();
  }
  throw new AgentError(
    'nfs.failed',
    `${program} does not start for ${root.directory}: ${lastWords(logFile)}`,
    { root: root.name, hint: hasOwnAddress() ? `Read ${logFile}.` : secondAddressHint },
  );
}

/**
 * Whether the machine has any IPv4 address but 127.0.0.1. Where it has none, as a laptop without a network, resolvers that are
 * asked for usable addresses alone (getaddrinfo(3), AI_ADDRCONFIG, which NFS-Ganesha sets) do not even find 127.0.0.1.
 */
function hasOwnAddress(): boolean {
  const addresses = Object.values(networkInterfaces()).flatMap((each) => each ?? []);
  return addresses.some(({ family, address }) => family === 'IPv4' && address !== '127.0.0.1');
}

const secondAddressHint =
  'NFS-Ganesha takes a machine with no IPv4 address but 127.0.0.1 for one without any: connect a network, or give it a second address, which stays until the next boot: ip address add 127.0.0.2/8 dev lo';

function startProcess(ganesha: string, directory: string, logFile: string, port: number): Backend {
  const args = [
    '-F',
    '-f',
    join(directory, 'conf'),
    '-L',
    logFile,
    '-p',
    join(directory, 'pid'),
    '-N',
    'NIV_EVENT',
  ];
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', ganesha, ...args], {
    stdio: 'ignore',
    // A session of its own: Ctrl-C in a terminal must reach the mount target first.
    detached: true,
    // Several servers on one machine must not compete for Ganesha's one name on the system bus.
    env: { ...process.env, DBUS_SYSTEM_BUS_ADDRESS: 'unix:path=/nonexistent' },
  });
  const ended = whenEnded(child);
  return {
    port,
    ended,
    close: () => {
      child.kill('SIGKILL');
      return ended;
    },
  };
}

function whenEnded(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => {
    child.once('exit', () => resolve());
    // setpriv itself is missing.
    child.once('error', () => resolve());
  });
}

async function isAnswering(backend: Backend): Promise<boolean> {
  let hasEnded = false;
  const ended = backend.ended.then(() => {
    hasEnded = true;
  });
  const deadlineMs = performance.now() + startTimeoutMs;
  for (let pauseMs = firstPauseMs; !hasEnded && performance.now() < deadlineMs; ) {
    if (await answersNullCall(backend.port, ended)) return !hasEnded;
    await delay(pauseMs);
    pauseMs = Math.min(2 * pauseMs, lastPauseMs);
  }
  return false;
}

/** One NFS 4 NULL call over a connection of its own. */
function answersNullCall(port: number, abandoned: Promise<void>): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port });
    socket.once('connect', () => {
      const words = [0x8000_0028, 1, 0, 2, 100_003, 4, 0, 0, 0, 0, 0];
      const call = Buffer.alloc(4 * words.length);
      words.forEach((word, index) => {
        call.writeUInt32BE(word, 4 * index);
      });
      socket.write(call);
    });
    socket.once('data', () => {
      resolve(true);
      socket.destroy();
    });
    socket.on('error', () => {});
    socket.once('close', () => resolve(false));
    void abandoned.then(() => socket.destroy());
  });
}

function findFreePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

/** Source: the manual pages ganesha-config, ganesha-core-config and ganesha-export-config of version 4. */
function configurationOf(root: BackendRoot, directory: string, port: number): string {
  const clients = permissionSets.map(({ clientAddress, ...access }) => {
    const { squash, uid, gid } = squashOf(root.user, access);
    return `  CLIENT {
    Clients = ${clientAddress};
    Access_Type = ${access.write ? 'RW' : 'RO'};
    Squash = ${squash};
    Anonymous_Uid = ${uid};
    Anonymous_Gid = ${gid};
    Protocols = 4;
  }`;
  });
  // Owner and scope differ from server to server: a client must never take two of them for one (RFC 8881, 2.10.4).
  // Attributes are never served from a cache: an access point shows a directory of the file system as well.
  return `NFS_CORE_PARAM {
  NFS_Protocols = 4;
  NFS_Port = ${port};
  Bind_addr = 127.0.0.1;
  Enable_NLM = false;
  Enable_RQUOTA = false;
  Enable_UDP = false;
  mount_path_pseudo = true;
}
NFSV4 {
  Graceless = true;
  Lease_Lifetime = 60;
  Minor_Versions = 0, 1;
  RecoveryBackend = fs;
  RecoveryRoot = "${join(directory, 'recovery')}";
  Only_Numeric_Owners = true;
  Server_Scope = "efs-agent-${root.name}";
  Server_Owner = "efs-agent-${root.name}";
}
NFS_KRB5 { Active_krb5 = false; }
LOG { Default_Log_Level = EVENT; }
EXPORT {
  Export_Id = 1;
  Path = "${root.directory}";
  Pseudo = "/";
  Protocols = 4;
  Transports = TCP;
  SecType = sys;
  Access_Type = NONE;
  Attr_Expiration_Time = 0;
  MaxRead = ${maxTransferBytes};
  MaxWrite = ${maxTransferBytes};
  PrefRead = ${maxTransferBytes};
  PrefWrite = ${maxTransferBytes};
  Disable_ACL = true;
  FSAL { Name = VFS; }
${clients.join('\n')}
}
`;
}

function squashOf(user: BackendRoot['user'], access: BackendAccess) {
  if (user === null)
    return { squash: access.root ? 'No_Root_Squash' : 'Root_Squash', uid: nobody, gid: nobody };
  const isRefusedRoot = user.uid === 0 && !access.root;
  return {
    squash: 'All_Squash',
    uid: isRefusedRoot ? nobody : user.uid,
    gid: isRefusedRoot ? nobody : user.gid,
  };
}

function lastWords(logFile: string): string {
  try {
    const lines = readFileSync(logFile, 'utf8').trim().split('\n');
    const severe = lines.filter((line) => /:(CRIT|FATAL|MAJ) :/.test(line) && !/dbus|krb5/i.test(line));
    return (severe.at(-1) ?? lines.at(-1) ?? '').replace(/^.*? :(?:CRIT|FATAL|MAJ) :/, '');
  } catch {
    return 'it wrote no log; setpriv (util-linux) may be missing';
  }
}
