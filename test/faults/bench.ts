import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { type AddressInfo, createServer, type ListenOptions, type Server, type Socket } from 'node:net';
import { join, resolve } from 'node:path';
import { runCommandLine } from '../../src/cli/command-line.ts';
import { runMountHelper, runUmountHelper } from '../../src/helper/program.ts';
import { type HelperStage, openHelperStage, type TestCaller } from '../helper/stage.ts';
import { type AgentStage, fileSystemId, openAgentStage } from '../support/agent-stage.ts';

export const dist = resolve(import.meta.dirname, '../../dist');
export const portRange: [number, number] = [23050, 23069];

/** What a person got: the exit status, and all of stderr. */
export interface Outcome {
  status: number | null;
  stderr: string;
}

/** A real agent with its directory, and callers in this process that talk to it. */
export interface Bench {
  agent: AgentStage;
  /** What is mounted, as the caller's kernel shows it. */
  showMounts(text: string): void;
  mount(argv: string[], changes?: Partial<TestCaller>): Promise<Outcome>;
  umount(argv: string[], changes?: Partial<TestCaller>): Promise<Outcome>;
  efsAgent(argv: string[], changes?: Partial<TestCaller>): Promise<Outcome>;
  /** `mount.efs <file system> <directory> -o tls,mounttargetip=127.0.0.1,…` */
  mountDirect(options?: string, changes?: Partial<TestCaller>): Promise<Outcome>;
  caller(changes?: Partial<TestCaller>): TestCaller;
  /** A server in the place of the mount target; `agent.configure` names its port. */
  serve(
    answer: (socket: Socket) => void,
    agentLines?: string[],
  ): Promise<{ port: number; accepted(): number }>;
  serveHttp(answer: RequestListener): Promise<string>;
  /** Two ports next to each other on which something listens; gives the lower one. */
  holdTwoPorts(): Promise<number>;
  /** A directory of its own with a control socket on which somebody else answers. */
  openRival(answer: (socket: Socket) => void): Promise<Record<string, string>>;
  /** All that the agent has logged. */
  log(): string;
  /** Everything but the agent as it was. */
  reset(): Promise<void>;
  close(): Promise<void>;
}

export async function openBench(): Promise<Bench> {
  const agent = openAgentStage(portRange);
  const helper: HelperStage = openHelperStage();
  const running = await agent.startAgent();
  const rivals: HelperStage[] = [];
  let servers: Server[] = [];
  const sockets = new Set<Socket>();
  const noMounts = helper.mountTable();

  async function listen(
    server: Server,
    where: ListenOptions = { port: 0, host: '127.0.0.1' },
  ): Promise<number> {
    servers.push(server);
    server.on('connection', (socket: Socket) => {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => sockets.delete(socket));
    });
    server.listen(where);
    await once(server, 'listening');
    return (server.address() as AddressInfo).port;
  }
  const run = async (
    program: (argv: string[], caller: TestCaller) => Promise<number>,
    argv: string[],
    changes: Partial<TestCaller>,
  ): Promise<Outcome> => {
    const caller = bench.caller(changes);
    const status = await program(argv, caller);
    return { status, stderr: caller.error };
  };

  const bench: Bench = {
    agent,
    showMounts: (text) => helper.write('mountinfo', text),
    caller: (changes = {}) =>
      helper.caller({
        environment: agent.environment as Record<string, string>,
        workingDirectory: agent.directory,
        agentBundle: () => join(dist, 'agent.cjs'),
        ...changes,
      }),
    mount: (argv, changes = {}) => run(runMountHelper, argv, changes),
    umount: (argv, changes = {}) => run(runUmountHelper, argv, { program: 'umount.efs', ...changes }),
    efsAgent: (argv, changes = {}) => run(runCommandLine, argv, { program: 'efs-agent', ...changes }),
    mountDirect: (options = '', changes = {}) =>
      bench.mount(
        [fileSystemId, agent.mountPoint, '-o', `tls,mounttargetip=127.0.0.1${options && `,${options}`}`],
        changes,
      ),
    async serve(answer, agentLines = []) {
      let accepted = 0;
      const port = await listen(
        createServer((socket) => {
          accepted += 1;
          answer(socket);
        }),
      );
      agent.configure([], [`mount_target_port = ${port}`, ...agentLines]);
      return { port, accepted: () => accepted };
    },
    serveHttp: async (answer) => `http://127.0.0.1:${await listen(createHttpServer(answer))}`,
    async holdTwoPorts() {
      for (;;) {
        const lower = await listen(createServer());
        const host = '127.0.0.1';
        const both = await listen(createServer(), { port: lower + 1, host }).catch(() => null);
        if (both !== null) return lower;
      }
    },
    async openRival(answer) {
      const rival = openHelperStage();
      rivals.push(rival);
      await listen(createServer(answer), { path: join(rival.directory, 'run/control.sock') });
      return { ...rival.environment, PATH: agent.environment['PATH']! };
    },
    log: () => running.stderr(),
    async reset() {
      for (const socket of sockets) socket.destroy();
      await Promise.all(servers.map((server) => new Promise((done) => server.close(done))));
      servers = [];
      helper.write('mountinfo', noMounts);
      rmSync(agent.environment['EFS_AGENT_CONFIG']!, { recursive: true, force: true });
      agent.configure([], []);
      agent.standIn('mount.nfs4', 'exit 0');
      rmSync(join(agent.directory, 'bin/umount'), { force: true });
    },
    async close() {
      await bench.reset();
      await Promise.all(rivals.map((rival) => rival.close()));
      await helper.close();
      running.child.kill('SIGTERM');
      await agent.close();
    },
  };
  return bench;
}

/** Why names cannot be resolved in a world of their own here; null = they can. */
export const whyNoNames =
  spawnSync('unshare', ['--net', '--mount', '--pid', '--fork', 'true']).status === 0
    ? null
    : 'not here: unshare(1) needs root';

/**
 * Runs mount.efs where the only name server is 127.0.0.1, and there it says that no name exists, or is not there.
 * What was started ends with it.
 */
export function mountWithNames(agent: AgentStage, nameServer: 'denies' | 'absent'): Outcome {
  const path = (name: string) => join(agent.directory, name);
  writeFileSync(path('resolv.conf'), 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n');
  // NXDOMAIN: the question again, with the flags of an answer.
  writeFileSync(
    path('names.cjs'),
    `const server = require('node:dgram').createSocket('udp4');
server.on('message', (question, from) => {
  const answer = Buffer.from(question);
  answer.writeUInt16BE(0x8183, 2);
  server.send(answer, from.port, from.address);
});
server.bind(53, '127.0.0.1', () => console.log('ready'));`,
  );
  const start = `"$1" ${path('names.cjs')} >${path('ready')} & while ! test -s ${path('ready')}; do sleep 0.05; done;`;
  const script = `ip link set lo up && mount --make-rprivate / && mount --bind ${path('resolv.conf')} /etc/resolv.conf || exit 99
${nameServer === 'denies' ? start : ''}
"$1" ${path('mount.efs')} ${fileSystemId} ${agent.mountPoint} -o tls`;
  const { status, stderr } = spawnSync(
    'unshare',
    ['--net', '--mount', '--pid', '--fork', '--kill-child', 'sh', '-c', script, 'sh', process.execPath],
    { encoding: 'utf8', env: { ...agent.environment, EFS_AGENT_RUNTIME_DIR: path(`run-${nameServer}`) } },
  );
  return { status, stderr };
}
