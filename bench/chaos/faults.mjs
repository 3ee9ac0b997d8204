// The faults: what is done, for how long, and what may come of it.
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { until } from './agent.mjs';
import { addresses } from './enclosure.mjs';
import { dnsName, fileSystemId, mounts } from './service.mjs';

const wait = (ms) => new Promise((wake) => setTimeout(wake, ms));
const hourSeconds = 3_600;
/** How long the agent may take to notice that credentials are back, with its own pauses between tries. */
const healMs = 180_000;

/**
 * `seconds` is the fault's own length in a long and in a short run, 0 for one that is over at once; `run` resolves
 * when it has ended. `blocks` says that no I/O can go on meanwhile, so that only what comes on top is ours. `limitMs`
 * is what may come on top, `refusedMs` how long a listener may refuse connections. A fault with `short: false` takes
 * too long for a short run.
 */
export const faults = [
  {
    name: 'none',
    title: 'none, for comparison',
    seconds: [5, 2],
    run: (_world, ms) => wait(ms),
  },
  {
    name: 'worker-kill',
    title: 'worker SIGKILL',
    seconds: [0, 0],
    limitMs: 1_000,
    async run({ agent }) {
      process.kill(await agent.workerPid(), 'SIGKILL');
    },
  },
  {
    name: 'worker-stop',
    title: 'worker SIGSTOP',
    seconds: [0, 0],
    limitMs: 6_000,
    async run({ agent }) {
      process.kill(await agent.workerPid(), 'SIGSTOP');
    },
  },
  {
    name: 'agent-kill',
    title: 'agent SIGKILL',
    seconds: [0, 0],
    refusedMs: 1_000,
    async run({ agent }) {
      process.kill(agent.pid(), 'SIGKILL');
      agent.start();
    },
  },
  {
    name: 'both-kill',
    title: 'agent and worker SIGKILL at once',
    seconds: [0, 0],
    refusedMs: 1_000,
    async run({ agent }) {
      const worker = await agent.workerPid();
      process.kill(agent.pid(), 'SIGKILL');
      process.kill(worker, 'SIGKILL');
      agent.start();
    },
  },
  {
    name: 'agent-restart',
    title: 'agent restart, as systemctl restart does it',
    seconds: [0, 0],
    limitMs: 1_000,
    run: ({ agent }) => agent.restart(),
  },
  {
    name: 'upgrade',
    title: 'upgrade to a build of another version, and back',
    seconds: [0, 0],
    limitMs: 1_000,
    async run({ agent, moved }) {
      const before = await agent.version();
      await agent.upgrade();
      const between = await agent.version();
      await moved();
      await agent.upgrade();
      if (before === between) throw new Error(`still version ${before} after an upgrade`);
    },
  },
  breakConnections('target-reset', 'mount target: RST', 'reset'),
  breakConnections('target-fin', 'mount target: FIN', 'fin'),
  breakConnections('half-close-down', 'half-close: the mount target sends no more', 'halfClose', 'client'),
  breakConnections('half-close-up', 'half-close: the mount target hears no more', 'halfClose', 'target'),
  losePackets('drop-both', 'packets lost both ways, no FIN', 'up', 'down'),
  losePackets('drop-up', 'packets lost on the way to the mount target', 'up'),
  losePackets('drop-down', 'packets lost on the way from the mount target', 'down'),
  {
    name: 'target-stop',
    title: 'mount target SIGSTOP',
    seconds: [30, 5],
    blocks: true,
    limitMs: 3_000,
    async run({ service }, ms) {
      process.kill(service.pid, 'SIGSTOP');
      await wait(ms);
      process.kill(service.pid, 'SIGCONT');
    },
  },
  {
    name: 'target-moves',
    title: 'mount target moves to another address, without a word',
    seconds: [0, 0],
    limitMs: 25_000,
    short: false,
    async run({ cable, moved }) {
      const [home, away] = addresses.targets;
      cable.moveTarget(home, away);
      cable.setName(dnsName, away);
      await moved();
      cable.moveTarget(away, home);
      cable.setName(dnsName, home);
    },
  },
  refuseHandshakes('tls-hangs', 'TLS handshake hangs, after RST', 'hang'),
  refuseHandshakes(
    'wrong-certificate',
    'another server certificate, which nobody trusts, after RST',
    'impersonate',
  ),
  {
    name: 'renewals',
    title: 'client certificates renewed each second',
    seconds: [10, 4],
    prepare: ({ agent }) => reconfigure(agent, ['renewal_sec = 1']),
    restore: ({ agent }) => reconfigure(agent, []),
    async run({ agent }, ms) {
      const log = agent.openLog();
      await wait(ms);
      const issued = log.count('client-certificate.issued');
      if (issued < mounts.length) throw new Error(`only ${issued} certificates in ${ms} ms`);
      return { issued };
    },
  },
  {
    name: 'credentials-gone',
    title: 'no metadata service for three hours, and back',
    seconds: [20, 20],
    short: false,
    run: loseCredentials,
  },
  {
    name: 'state-full',
    title: 'state directory full',
    seconds: [3, 1],
    async run({ agent, guest }, ms) {
      const filler = join(agent.runtimeDir, 'filler');
      fillUp(filler);
      const failure = await agent.mount(`${fileSystemId}:/`, guest.mountPoint('extra'), 'tls,iam').then(
        () => 'a mount succeeds although it cannot be recorded',
        (error) =>
          /\[runtime-dir\.unusable\]/.test(error.message) ? null : `no clear error: ${error.message}`,
      );
      await wait(ms);
      rmSync(filler);
      if (failure !== null) throw new Error(failure);
    },
  },
  {
    name: 'dns-fails',
    title: 'no name server answers, and RST',
    seconds: [10, 2],
    async run({ cable, service }, ms) {
      cable.setName(dnsName, null);
      await service.tell('reset');
      await wait(ms);
      cable.setName(dnsName, addresses.targets[0]);
    },
  },
  {
    name: 'slow-reader',
    title: 'mount target reads 200 kB/s from each connection',
    seconds: [20, 4],
    blocks: true,
    async run({ agent, service }, ms) {
      const log = agent.openLog();
      await service.tell('slow', 200_000);
      await wait(ms);
      await service.tell('slow', null);
      return { stalled: log.count('session.stalled') };
    },
  },
];

/** The proxy ends the connections that are there, in one of its ways. */
function breakConnections(name, title, ...way) {
  return { name, title, seconds: [0, 0], run: ({ service }) => service.tell(...way) };
}

/** The proxy keeps new connections from being of use, until it is told otherwise. */
function refuseHandshakes(name, title, way) {
  return {
    name,
    title,
    seconds: [10, 3],
    blocks: true,
    async run({ service }, ms) {
      await service.tell(way, true);
      await wait(ms);
      await service.tell(way, false);
    },
  };
}

function losePackets(name, title, ...ways) {
  return {
    name,
    title,
    seconds: [30, 5],
    blocks: true,
    limitMs: 3_000,
    run: (world, ms) => cutCable(world, ms, ways),
  };
}

async function cutCable({ agent, cable }, ms, ways) {
  const log = agent.openLog();
  const beginMs = performance.now();
  cable.cut(...ways);
  let foundMs = null;
  const giveUp = new AbortController();
  const finding = until(
    () => giveUp.signal.aborted || log.count('session.stalled') > 0,
    'a stall is found',
  ).then(() => {
    if (!giveUp.signal.aborted) foundMs = Math.round(performance.now() - beginMs);
  });
  await wait(ms);
  giveUp.abort();
  await finding;
  cable.mend();
  return foundMs === null ? {} : { foundMs };
}

async function reconfigure(agent, lines) {
  agent.configure(lines);
  await agent.renew();
  await agent.settle();
}

/** Three hours pass in as many steps; mounts that are connected stay untouched, and all heal by themselves. */
async function loseCredentials({ agent, cable, clock }, ms) {
  const log = agent.openLog();
  cable.setMetadata(false);
  for (let hour = 1; hour <= 3; hour++) {
    clock.advance(hourSeconds);
    await wait(ms / 3);
  }
  const isAlarmed = async () => (await agent.status()).mounts.every(({ alarm }) => alarm !== null);
  try {
    await until(isAlarmed, 'every mount raises an alarm');
  } finally {
    cable.setMetadata(true);
  }
  const backMs = performance.now();
  const isHealed = async () => {
    const now = clock.nowMs();
    return (await agent.status()).mounts.every(
      ({ alarm, clientCertificateExpiresAtMs }) => alarm === null && clientCertificateExpiresAtMs > now,
    );
  };
  await until(isHealed, 'every certificate is renewed', healMs);
  return {
    healMs: Math.round(performance.now() - backMs),
    tries: log.count('client-certificate.not-renewed'),
  };
}

function fillUp(file) {
  const descriptor = openSync(file, 'w');
  try {
    for (let bytes = 65_536; bytes >= 1; ) {
      try {
        writeSync(descriptor, Buffer.alloc(bytes));
      } catch {
        bytes = Math.floor(bytes / 4);
      }
    }
  } finally {
    closeSync(descriptor);
  }
}
