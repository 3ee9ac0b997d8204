// The mount target of the bench: the local mount target, and the fault proxy in front of it, in a network of their own.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { firstLine } from '../stage.mjs';
import { addresses } from './enclosure.mjs';

export const fileSystemId = 'fs-0123456789abcdef0';
export const dnsName = `${fileSystemId}.efs.us-east-1.amazonaws.com`;
/** Two access points and the root. */
export const mounts = [
  { name: 'root', options: 'tls,iam' },
  { name: 'point-1', options: 'tls,iam,accesspoint=fsap-00000000000000001', accessPoint: 1 },
  { name: 'point-2', options: 'tls,iam,accesspoint=fsap-00000000000000002', accessPoint: 2 },
];
const targetPort = 2050;

export async function openService({ directory, dist, cable, start }) {
  const points = mounts.filter(({ accessPoint }) => accessPoint !== undefined);
  const exported = join(directory, 'exported');
  mkdirSync(exported);
  const state = join(directory, 'target');
  const [command, ...prefix] = cable.inServiceNetwork;
  const target = start(command, [
    ...prefix,
    process.execPath,
    join(dist, 'efs-agent.mjs'),
    ...['target', '--json', '--listen', `127.0.0.1:${targetPort}`, '--metadata', `${addresses.metadata}:80`],
    // So that none outlive the three hours in which there are no others.
    ...['--credentials-lifetime', '3600'],
    ...['--file-system', `${fileSystemId}=${exported}`, '--state-dir', state],
    ...['--events', join(directory, 'events.jsonl')],
    ...points.flatMap(({ name, accessPoint }) => {
      const user = 2000 + accessPoint;
      return [
        '--access-point',
        `fsap-0000000000000000${accessPoint}=${fileSystemId}:/${name}:${user}:${user}:0750`,
      ];
    }),
  ]);
  const { caFile } = JSON.parse(await firstLine(target, 'the local mount target'));
  const impostor = join(directory, 'impostor.pem');
  makeImpostor(impostor);
  const proxy = spawn(
    command,
    [...prefix, process.execPath, join(import.meta.dirname, 'proxy.mjs'), String(targetPort), impostor],
    { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] },
  );
  await once(proxy, 'message');

  let lastId = 0;
  return {
    caPem: readFileSync(caFile, 'utf8'),
    pid: target.pid,
    /** Tells the fault proxy; resolves when it has done it. */
    async tell(action, value) {
      const id = ++lastId;
      proxy.send({ id, action, value });
      for (;;) {
        const [answer] = await once(proxy, 'message');
        if (answer.id === id) return;
      }
    },
  };
}

/** A certificate with the right name, of an authority that nobody trusts. */
function makeImpostor(file) {
  const name = '*.efs.us-east-1.amazonaws.com';
  const key = `${file}.key`;
  execFileSync(
    'openssl',
    [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'],
      ...['-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name}`, '-keyout', key, '-out', file],
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  execFileSync('sh', ['-c', 'cat "$1" >> "$2"', 'sh', key, file]);
  rmSync(key);
}
