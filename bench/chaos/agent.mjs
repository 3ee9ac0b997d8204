// The agent of the bench: started, killed and replaced as systemd and a package upgrade do it.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { run } from '../stage.mjs';

const patienceMs = 60_000;

/**
 * @param builds directories of the bundles of two versions; the first one is started.
 */
export async function openAgent({ directory, logFile, builds, caPem, standIn }) {
  const runtimeDir = join(directory, 'run');
  const bin = join(directory, 'bin');
  for (const path of [runtimeDir, bin]) mkdirSync(path);
  // So that this file system can be filled up.
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m,mode=0755', 'run', runtimeDir]);
  const caFile = join(directory, 'ca.pem');
  writeFileSync(caFile, caPem);
  writeFileSync(join(bin, 'mount.nfs4'), `#!/bin/sh\n${standIn}\n`, { mode: 0o755 });
  const helper = join(bin, 'mount.efs');
  symlinkSync(join(builds[0], 'mount-efs.cjs'), helper);
  const conf = join(directory, 'efs-utils.conf');
  const environment = {
    PATH: `${bin}:${process.env.PATH}`,
    HOME: directory,
    EFS_AGENT_RUNTIME_DIR: runtimeDir,
    EFS_AGENT_CONFIG: conf,
    // It behaves as under systemd: a stop may be half of a restart.
    NOTIFY_SOCKET: join(directory, 'notify'),
  };
  let build = builds[0];

  function configure(lines = []) {
    const mount = ['[mount]', 'region = us-east-1', `stunnel_cafile = ${caFile}`];
    writeFileSync(conf, `${[...mount, '[agent]', ...lines].join('\n')}\n`);
  }

  function start() {
    const log = openSync(logFile, 'a');
    const child = spawn(process.execPath, [join(build, 'agent.cjs')], {
      env: environment,
      stdio: ['ignore', log, log],
    });
    closeSync(log);
    return child;
  }

  const command = (...argv) =>
    run(process.execPath, [join(build, 'efs-agent.mjs'), ...argv], { env: environment });
  const pid = () => Number(readFileSync(join(runtimeDir, 'agent.pid'), 'utf8'));
  const status = async () => JSON.parse(await command('status', '--json'));
  /** What was logged after the first so many bytes. */
  const readLog = (fromByte = 0) => readFileSync(logFile).subarray(fromByte).toString();

  configure();
  start();
  await until(() => readLog().includes('agent.ready'), 'the agent is ready').catch((error) => {
    throw new Error(`${error.message}\n${readLog()}`);
  });

  return {
    runtimeDir,
    status,
    pid,
    /** What is logged from now on. */
    openLog() {
      const fromByte = statSync(logFile).size;
      return { count: (event) => readLog(fromByte).split(` ${event} `).length - 1 };
    },
    configure,
    version: async () => (await status()).version,
    async workerPid() {
      return (await status()).worker.pid;
    },
    /** mount.efs as mount(8) calls it. Errors: its words. */
    async mount(device, mountPoint, options) {
      await run(process.execPath, [helper, device, mountPoint, '-o', options], { env: environment });
    },
    /** Starts the program anew, as systemd does when the service has died. */
    start,
    /** `systemctl restart`: SIGTERM, the end of the main process, a start. */
    async restart() {
      const old = pid();
      process.kill(old, 'SIGTERM');
      await until(() => !isAlive(old), 'the agent ends after SIGTERM');
      const [code] = await once(start(), 'exit');
      if (code !== 0) throw new Error(`the start after a stop ended with status ${code}`);
    },
    /** Puts the other build in the agent's place. */
    async upgrade() {
      build = builds.find((other) => other !== build);
      await command('agent', '--takeover');
    },
    /** The same build anew, which reads its configuration. */
    async renew() {
      await command('agent', '--takeover');
    },
    /** Waits until an agent answers, its worker is up, and the workers before it have retired. Errors: after a minute. */
    async settle() {
      await until(async () => {
        const now = await status().catch(() => null);
        return now?.worker.state === 'up' && findWorkers().every((found) => found === now.worker.pid);
      }, 'agent and worker are up, older workers gone');
    },
  };
}

/** Process ids of all tunnel workers in the enclosure. */
function findWorkers() {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => pid > 0 && isAlive(pid) && readCommandLine(pid).includes('worker.cjs'));
}

function readCommandLine(pid) {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return ''; // it has just ended
  }
}

/** Says whether a process is there and is no zombie. */
export function isAlive(pid) {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

/** Waits for a condition. Errors: at the deadline. */
export async function until(fits, what, deadlineMs = patienceMs) {
  const giveUpMs = performance.now() + deadlineMs;
  while (!(await fits())) {
    if (performance.now() > giveUpMs) throw new Error(`waited ${deadlineMs / 1000} s in vain: ${what}`);
    await new Promise((wake) => setTimeout(wake, 50));
  }
}
