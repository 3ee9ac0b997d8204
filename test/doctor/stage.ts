import { once } from 'node:events';
import { chmodSync, mkdirSync, symlinkSync } from 'node:fs';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { join, resolve } from 'node:path';
import tls from 'node:tls';
import { parseMountSpec, parseOptions } from '../../src/core/mount-spec.ts';
import { type Diagnosis, diagnose } from '../../src/doctor/diagnose.ts';
import type { Places } from '../../src/doctor/places.ts';
import { createSubject } from '../../src/doctor/subject.ts';
import { fileSystemId, type HelperStage, openHelperStage, type TestCaller } from '../helper/stage.ts';
import { createTemporaryCa, type TemporaryCertificateOptions } from '../support/temporary-ca.ts';

const dist = resolve(import.meta.dirname, '../../dist');
export const targetName = '*.efs.us-east-1.amazonaws.com';

/** One for all stages of a file: its keys take longer to make than most tests. */
const ca = createTemporaryCa();

/** A machine on which everything is as it should be, to break one thing of it. */
export interface DoctorStage extends HelperStage {
  places: Places;
  /** Lines of `[mount]` and `[agent]`, besides what makes the machine whole. */
  configure(mount: string[], agent: string[]): void;
  standIn(name: string, body: string): void;
  /** A process, as /proc shows it. */
  standInProcess(pid: string, command: string[]): void;
  /** A server of the test's own in the place of the mount target; the configuration leads there. */
  serve(answer: (socket: Socket) => void): Promise<number>;
  serveTls(
    certificate: TemporaryCertificateOptions,
    answer: (socket: tls.TLSSocket) => void,
  ): Promise<number>;
  examine(
    options: string | null,
    changes?: { device?: string; only?: string[] } & Partial<TestCaller>,
  ): Promise<Diagnosis>;
}

export function openDoctorStage(): DoctorStage {
  const stage = openHelperStage();
  const { directory } = stage;
  const path = (name: string) => join(directory, name);
  const servers: Server[] = [];
  const sockets = new Set<Socket>();
  for (const name of ['sbin', 'proc', 'modules', 'bin']) mkdirSync(path(name));
  stage.write('ca.pem', ca.rootPem);
  stage.write('filesystems', 'nodev\ttmpfs\nnodev\tnfs4\n');
  stage.write('fstab', '# nothing of ours\n');
  symlinkSync(join(dist, 'mount-efs.cjs'), path('sbin/mount.efs'));
  const environment = {
    PATH: `${path('bin')}:${process.env['PATH']}`,
    HOME: directory,
    EFS_AGENT_RUNTIME_DIR: path('run'),
    EFS_AGENT_CONFIG: path('efs-utils.conf'),
    NO_COLOR: '1',
  };

  const whole: DoctorStage = {
    ...stage,
    places: {
      fstab: path('fstab'),
      filesystems: path('filesystems'),
      modules: path('modules'),
      loadedModules: path('no-modules'),
      mountHelpers: [path('sbin/mount.efs')],
      rivalWatchdog: path('amazon-efs-mount-watchdog'),
      processes: path('proc'),
    },
    configure(mount, agent) {
      const lines = [
        '[mount]',
        'region = us-east-1',
        'fall_back_to_mount_target_ip_address_enabled = false',
        `stunnel_cafile = ${path('ca.pem')}`,
        ...mount,
        '[agent]',
        // Not the instance metadata of whatever machine this is.
        ...(agent.some((line) => line.startsWith('metadata_endpoint'))
          ? []
          : ['metadata_endpoint = http://127.0.0.1:9']),
        ...agent,
      ];
      stage.write('efs-utils.conf', `${lines.join('\n')}\n`);
    },
    standIn(name, body) {
      stage.write(`bin/${name}`, `#!/bin/sh\n${body}\n`);
      chmodSync(path(`bin/${name}`), 0o755);
    },
    standInProcess(pid, command) {
      mkdirSync(path(`proc/${pid}`));
      stage.write(`proc/${pid}/cmdline`, `${command.join('\0')}\0`);
    },
    serve: (answer) => listen(createServer(answer)),
    serveTls(certificate, answer) {
      const { privateKeyPem: key, certificatePem: cert } = ca.issue(certificate);
      const options = { key, cert, requestCert: true, rejectUnauthorized: false };
      return listen(
        tls.createServer(options, (socket) => {
          socket.on('error', () => socket.destroy());
          answer(socket);
        }),
      );
    },
    async examine(options, { device = fileSystemId, only, ...changes } = {}) {
      const caller = stage.caller({
        program: 'efs-agent',
        environment,
        agentBundle: () => join(dist, 'agent.cjs'),
        ...changes,
      });
      const spec = options === null ? null : parseMountSpec(device, parseOptions(options));
      const subject = createSubject(caller, whole.places, spec);
      return diagnose(subject, only ?? null).finally(subject.close);
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await Promise.all(servers.map((server) => new Promise((done) => server.close(done))));
      await stage.close();
    },
  };
  whole.configure([], []);
  whole.standIn('mount.nfs4', 'echo "mount.nfs4: (linux nfs-utils 2.6.2)"');
  return whole;

  async function listen(server: Server): Promise<number> {
    servers.push(server);
    server.on('connection', (socket: Socket) => {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => sockets.delete(socket));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as AddressInfo;
    whole.configure([], [`mount_target_port = ${port}`, 'dial_timeout_sec = 2']);
    return port;
  }
}
