import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, readlinkSync, writeSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import type { TLSSocket } from 'node:tls';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { protocolVersion } from '../../src/core/control-protocol.ts';
import { parseOptions } from '../../src/core/mount-spec.ts';
import { type Caller, createCaller } from '../../src/helper/caller.ts';
import { connectToAgent } from '../../src/helper/control-client.ts';
import { mountFileSystem } from '../../src/helper/mount.ts';
import { type AgentStage, fileSystemId, openAgentStage, type Running } from '../support/agent-stage.ts';
import { canUnshare } from '../support/mount-table.ts';
import { childrenOf, scriptOf } from '../support/processes.ts';

/**
 * Mounts and unmounts by the hundred, through the real agent, worker and helper code; the kernel's part is played by a stand-in
 * mount.nfs4, a mount table and connections of this process. `EFS_AGENT_CYCLES=10000` makes it the long run.
 */
const cycles = Number(process.env['EFS_AGENT_CYCLES'] ?? 48);
const isLong = cycles >= 1_000;
const lanes = 8;
const crowd = isLong ? 500 : 40;
const accessPoints = isLong ? 50 : 8;
const kills = isLong ? 60 : 6;
/** Between two kills, at least: an agent that never lives long enough for a key makes no mount. */
const pauseMs = isLong ? 2_000 : 200;
const timeout = isLong ? 7_200_000 : 240_000;

const firstPort = 24_000;
const lastPort = 24_999;
/** Every mount has a line of its own in the table, so that nobody needs a lock. */
const lineBytes = 320;

const thisProcess = { ...createCaller('mount.efs') };
let stage: AgentStage;
let tableFile = '';
const undo: (() => Promise<unknown>)[] = [];
beforeEach(() => {
  stage = openAgentStage([firstPort, lastPort]);
});
afterEach(async () => {
  for (const step of undo.splice(0)) await step();
  await stage.close();
});

test.skipIf(!canUnshare)(
  `${cycles} mounts and unmounts, ${lanes} at a time, leave no descriptor, process, port or file behind`,
  { timeout },
  async () => {
    const { agent } = await setUp(lanes);
    const cycle = async (lane: number) => {
      const mounted = await mount(lane, accessPointOf(0));
      const client = await openClient(mounted.port);
      expect(await client.ask()).toBe(accessPointOf(0));
      client.close();
      await unmount(lane);
    };
    // A first round: what is made once is made.
    await Promise.all(Array.from({ length: lanes }, (_, lane) => cycle(lane)));
    await settled();
    const { pid: worker } = (await stage.status()).worker;
    const before = countLeftovers(agent.child.pid!, worker!);

    await Promise.all(
      Array.from({ length: lanes }, async (_, lane) => {
        for (let count = lane; count < cycles; count += lanes) await cycle(lane);
      }),
    );
    await settled();

    await expect.poll(() => countLeftovers(agent.child.pid!, worker!)).toEqual(before);
    expect(recordsLeft()).toEqual([]);
    expect(stage.nfsCalls()).toHaveLength(cycles + lanes);
    // Each end is told of once, however many looks see it.
    await expect.poll(() => countTold(agent.stderr(), 'mount.gone')).toBe(cycles + lanes);
  },
);

test.skipIf(!canUnshare)(
  `${crowd} mounts of ${accessPoints} access points at once, while worker and agent are killed: no byte from another one, nothing left`,
  { timeout },
  async () => {
    const killer = startKiller((await setUp(crowd)).agent);

    const answers = await Promise.all(
      Array.from({ length: crowd }, async (_, index) => {
        const expected = accessPointOf(index % accessPoints);
        await mount(index, expected);
        const heard = await askPatiently(index, 3);
        await unmount(index);
        return heard.filter((answer) => answer !== expected);
      }),
    );
    const { killed, agent, workers } = await killer.stop();

    expect(answers.flat()).toEqual([]);
    expect(killed).toBeGreaterThan(0);
    await settled();
    expect(recordsLeft()).toEqual([]);
    expect(listeners()).toEqual([]);
    const inCharge = workersOf(agent);
    await expect
      .poll(() => workers.filter((pid) => isWorker(pid) && !inCharge.includes(pid)), { timeout: 60_000 })
      .toEqual([]);
  },
);

interface Killer {
  /** How many it has killed, the agent that is there now, and every worker that it has seen. */
  stop(): Promise<{ killed: number; agent: Running; workers: number[] }>;
}

/** Kills worker or agent now and then, and starts the next agent. */
function startKiller(first: Running): Killer {
  const over = new AbortController();
  let agent = first;
  let killed = 0;
  const workers = new Set<number>();
  const killing = (async () => {
    while (killed < kills) {
      await wait(pauseMs * (1 + 2 * Math.random()), undefined, { signal: over.signal }).catch(() => {});
      if (over.signal.aborted) return;
      const now = workersOf(agent);
      for (const pid of now) workers.add(pid);
      if (Math.random() < 0.5) {
        for (const pid of now.slice(0, 1)) killed += killIfThere(pid);
      } else {
        agent.child.kill('SIGKILL');
        await agent.ended;
        killed += 1;
        agent = await stage.startAgent();
      }
    }
  })();
  const killer = {
    async stop() {
      over.abort();
      await killing;
      return { killed, agent, workers: [...workers] };
    },
  };
  undo.push(() => killer.stop());
  return killer;
}

/** 1 if the process was there. */
function killIfThere(pid: number): number {
  try {
    process.kill(pid, 'SIGKILL');
    return 1;
  } catch {
    return 0;
  }
}

/** A mount target that says through which access point its client came, and an agent that sees the mounts of the table. */
async function setUp(slots: number): Promise<{ agent: Running }> {
  await stage.startTarget(undefined, answerWithAccessPoint);
  const table = await stage.useMountTable();
  tableFile = table.file;
  for (let slot = 0; slot < slots; slot += 1) {
    mkdirSync(placeOf(slot));
    writeLine(slot, '36 25 0:55 / /none rw,relatime shared:1 - none none rw,');
  }
  stage.standIn('mount.nfs4', mountScript);
  stage.standIn('umount', umountScript);
  return { agent: await stage.startAgent() };
}

/** Connects through the tunnel as the kernel does, and only then shows the mount, in the line of its directory. */
const mountScript = `exec bash -c '
  echo "$@" >>"${'$'}{0%/*}/../nfs-calls"
  port=$(printf %s "$*" | sed "s/.*port=\\([0-9]*\\).*/\\1/")
  exec 3<>/dev/tcp/127.0.0.1/$port && printf x >&3 && read -r -t 60 -u 3 answer || exit 32
  line="36 25 0:55 / $2 rw,relatime shared:1 - nfs4 $1 rw,vers=4.1,port=$port,addr=127.0.0.1,pad="
  printf "%s%0*d\\n" "$line" $((${lineBytes} - 1 - ${'$'}{#line})) 0 |
    dd of="${'$'}{0%/*}/../mountinfo" bs=${lineBytes} seek="${'$'}{2##*/}" conv=notrunc status=none
' "$0" "$@"`;

/** The helper takes a mount away again whose agent never came back. */
const umountScript = `exec bash -c '
  for place; do :; done
  printf "%-*s\\n" ${lineBytes - 1} "36 25 0:55 / /none rw,relatime shared:1 - none none rw" |
    dd of="${'$'}{0%/*}/../mountinfo" bs=${lineBytes} seek="${'$'}{place##*/}" conv=notrunc status=none
' "$0" "$@"`;

function answerWithAccessPoint(socket: TLSSocket): void {
  const certificate = socket.getPeerCertificate(true).raw.toString('latin1');
  const accessPoint = /fsap-[0-9a-f]{17}/.exec(certificate)?.[0] ?? 'none';
  socket.on('data', () => socket.write(`${accessPoint}\n`));
}

const placeOf = (slot: number) => join(stage.directory, String(slot));
const accessPointOf = (index: number) => `fsap-${index.toString(16).padStart(17, '0')}`;

function writeLine(slot: number, text: string): void {
  const file = openSync(tableFile, 'r+');
  writeSync(file, `${text}pad=`.padEnd(lineBytes - 1, '0').concat('\n'), slot * lineBytes);
  closeSync(file);
}

function portIn(slot: number): number {
  const line = readFileSync(tableFile, 'utf8').slice(slot * lineBytes, (slot + 1) * lineBytes);
  return Number(/port=(\d+),/.exec(line)?.[1]);
}

/** As `mount.efs` does, in this process; and, as a person or program does, again when it failed. */
async function mount(slot: number, accessPoint: string): Promise<{ port: number }> {
  const said: string[] = [];
  const caller: Omit<Caller, 'interruption'> = {
    ...thisProcess,
    environment: stage.environment,
    writeOut: () => {},
    writeError: (text) => void said.push(text),
    // Whoever restarts the agent here is the test.
    agentBundle: () => '/nonexistent/agent.cjs',
    files: {
      ...thisProcess.files,
      mountInfo: tableFile,
      bdi: join(stage.directory, 'bdi'),
      readAheadResetter: '/nonexistent',
    },
  };
  const options = parseOptions(`tls,accesspoint=${accessPoint},mounttargetip=127.0.0.1`);
  const request = {
    kind: 'mount' as const,
    device: fileSystemId,
    mountPoint: placeOf(slot),
    options,
    verbose: false,
    sloppy: false,
    fake: false,
  };
  for (let tries = 1; ; tries += 1) {
    try {
      await mountFileSystem(request, { ...caller, interruption: new AbortController().signal });
      return { port: portIn(slot) };
    } catch (error) {
      if (tries === 40) throw new Error(`${said.join('')}${(error as Error).message}`);
      await wait(100 + Math.random() * 400);
    }
  }
}

/** The kernel first, then the agent is told; one that is away finds out by itself. */
async function unmount(slot: number): Promise<void> {
  writeLine(slot, '36 25 0:55 / /none rw,relatime shared:1 - none none rw,');
  const agent = await connectToAgent(join(stage.runtimeDir, 'control.sock'));
  if (agent === null) return;
  agent.send({ kind: 'unmounted', version: protocolVersion, mountPoint: placeOf(slot) });
  await agent.receive(60_000).catch(() => {});
  agent.close();
}

interface Client {
  ask(): Promise<string>;
  close(): void;
}

async function openClient(port: number): Promise<Client> {
  const socket: Socket = connect({ port, host: '127.0.0.1' });
  socket.on('error', () => {});
  await once(socket, 'connect');
  return {
    async ask() {
      // It may have closed since the last answer: nothing would tell of that once more.
      if (socket.closed) throw new Error('closed');
      socket.write('x');
      const [chunk] = (await Promise.race([
        once(socket, 'data'),
        once(socket, 'close').then(() => {
          throw new Error('closed');
        }),
      ])) as [Buffer];
      return chunk.toString().trim();
    },
    close: () => socket.destroy(),
  };
}

/** Asks so often, over a new connection whenever one is lost, as the kernel would. */
async function askPatiently(slot: number, times: number): Promise<string[]> {
  const heard: string[] = [];
  const deadline = performance.now() + timeout / 2;
  while (heard.length < times) {
    if (performance.now() > deadline)
      throw new Error(`the mount on ${placeOf(slot)} does not answer any more`);
    try {
      const client = await openClient(portIn(slot));
      try {
        while (heard.length < times) {
          heard.push(await client.ask());
          await wait(Math.random() * 300);
        }
      } finally {
        client.close();
      }
    } catch {
      await wait(20 + Math.random() * 100);
    }
  }
  return heard;
}

async function settled(): Promise<void> {
  await expect
    .poll(
      async () => {
        for (const slot of readdirSync(stage.directory).filter((name) => /^\d+$/.test(name)))
          await unmount(Number(slot));
        return (await stage.status()).mounts;
      },
      { timeout: 120_000, interval: 500 },
    )
    .toEqual([]);
}

/** How often an event was logged, with those that were held back because there were many. */
function countTold(log: string, event: string): number {
  const lines = log.split('\n').filter((line) => line.includes(` ${event} `));
  const counts = lines.map((line) => Number(/ repeated="(\d+) times"/.exec(line)?.[1] ?? 1));
  return counts.reduce((sum, count) => sum + count, 0);
}

function recordsLeft(): string[] {
  return ['mounts', 'mounts.copy', 'callers'].flatMap((place) => readdirSync(join(stage.runtimeDir, place)));
}

function countLeftovers(agent: number, worker: number) {
  return {
    agent: countDescriptors(agent),
    worker: countDescriptors(worker),
    processes: childrenOf(agent).length,
    listeners: listeners(),
    files: recordsLeft(),
  };
}

/** Open descriptors by kind: their numbers change, their count must not. */
function countDescriptors(pid: number): Record<string, number> {
  const kinds: Record<string, number> = {};
  for (const descriptor of readdirSync(`/proc/${pid}/fd`)) {
    const kind = readlinkSync(`/proc/${pid}/fd/${descriptor}`).split(':')[0]!;
    kinds[kind] = (kinds[kind] ?? 0) + 1;
  }
  return kinds;
}

function listeners(): number[] {
  const lines = readFileSync('/proc/net/tcp', 'utf8').split('\n').slice(1);
  return lines.flatMap((line) => {
    const [, local, , state] = line.trim().split(/\s+/);
    const port = Number.parseInt(local?.split(':')[1] ?? '0', 16);
    return state === '0A' && port >= firstPort && port <= lastPort ? [port] : [];
  });
}

const workersOf = (agent: Running) => childrenOf(agent.child.pid!).filter(isWorker);
const isWorker = (pid: number) => scriptOf(pid).endsWith('/worker.cjs');
