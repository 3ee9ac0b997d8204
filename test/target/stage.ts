import { execFile, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { connect, type TLSSocket } from 'node:tls';
import { promisify } from 'node:util';
import type { TargetEvent } from '../../src/target/events.ts';
import { openTarget, type Target, type TargetOptions } from '../../src/target/target.ts';
import { createTemporaryDirectory } from '../support/temporary-directory.ts';
import { example, makeCertificate, type Recipe, recipe } from './make-certificate.ts';

export const fileSystemId = example.fileSystemId;

/** Why no NFS server can run here; null = it can. */
export const whyNoServer =
  process.getuid?.() !== 0
    ? 'not root'
    : spawnSync('ganesha.nfsd', ['-v']).error !== undefined
      ? 'nfs-ganesha is not installed'
      : spawnSync('nfs-ls').error !== undefined
        ? 'libnfs-utils is not installed'
        : null;

/** A mount target on free ports, with everything it said. */
export interface Stage {
  target: Target;
  port: number;
  directory: string;
  events: TargetEvent[];
  close(): Promise<void>;
}

export async function openStage(changes: Partial<TargetOptions> = {}): Promise<Stage> {
  const directory = createTemporaryDirectory();
  const events: TargetEvent[] = [];
  const target = await openTarget({
    region: 'us-east-1',
    dnsSuffix: 'amazonaws.com',
    partition: 'aws',
    accountId: '111122223333',
    roleName: 'efs-client',
    instanceId: 'i-0123456789abcdef0',
    fileSystems: [{ id: fileSystemId, directory: join(directory, 'export') }],
    accessPoints: [],
    policyFile: null,
    listen: [{ address: '127.0.0.1', port: 0, fileSystemId: null }],
    metadata: { address: '127.0.0.1', port: 0, tokenOptional: false },
    stateDirectory: join(directory, 'state'),
    credentialsLifetimeMs: 3_600_000,
    multiplexing: { maxConnections: 5, thresholdBytesPerSecond: 314_572_800 },
    limitBytesPerSecond: null,
    onEvent: (event) => void events.push(event),
    nowMs: Date.now,
    ...changes,
  });
  return {
    target,
    port: target.listening[0]!.port,
    directory,
    events,
    close: async () => {
      await target.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** Asks the metadata service as the AWS SDK does: a session token first. */
export async function readMetadata(url: string, path: string): Promise<Response> {
  const headers = { 'x-aws-ec2-metadata-token-ttl-seconds': '60' };
  const token = await (await fetch(`${url}/latest/api/token`, { method: 'PUT', headers })).text();
  return fetch(`${url}/latest/${path}`, { headers: { 'x-aws-ec2-metadata-token': token } });
}

/** The credentials that the target's metadata service hands out now, to sign for its file system. */
export async function readCredentials(stage: Stage): Promise<NonNullable<Recipe['signature']>> {
  const path = 'meta-data/iam/security-credentials/efs-client';
  const keys = (await (await readMetadata(stage.target.metadataUrl, path)).json()) as Record<string, string>;
  return {
    accessKeyId: keys['AccessKeyId']!,
    secretAccessKey: keys['SecretAccessKey']!,
    sessionToken: keys['Token']!,
    region: 'us-east-1',
    host: fileSystemId,
  };
}

/** A client certificate signed with those credentials. */
export async function signedCertificate(stage: Stage, changes: Partial<Recipe> = {}): Promise<Buffer> {
  const signature = await readCredentials(stage);
  return makeCertificate(recipe({ signedAtMs: Date.now(), accessPointId: null, signature, ...changes }));
}

export function unsignedCertificate(changes: Partial<Recipe> = {}): Buffer {
  return makeCertificate(
    recipe({ signedAtMs: Date.now(), accessPointId: null, signature: null, ...changes }),
  );
}

/** Connects as an agent does: server certificate checked against the target's authority and the name. */
export async function connectTls(stage: Stage, certificate: Buffer | null): Promise<TLSSocket> {
  const socket = connect({
    host: '127.0.0.1',
    port: stage.port,
    ca: readFileSync(stage.target.caFile),
    servername: `${fileSystemId}.efs.us-east-1.amazonaws.com`,
    ...(certificate === null
      ? {}
      : { cert: pemOf(certificate), key: example.privateKey.export({ type: 'pkcs8', format: 'pem' }) }),
  });
  await once(socket, 'secureConnect');
  return socket;
}

/** A plain port through which an ordinary NFS client reaches the mount target with a client certificate. */
export async function openTunnel(
  stage: Stage,
  certificate: Buffer | null,
): Promise<{ port: number; close: () => void }> {
  const server = createServer((local) => {
    local.on('error', () => {});
    connectTls(stage, certificate).then(
      (upstream) => {
        upstream
          .on('error', () => {})
          .pipe(local)
          .pipe(upstream);
        local.once('close', () => upstream.destroy());
        upstream.once('close', () => local.destroy());
      },
      () => local.destroy(),
    );
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { port: (server.address() as AddressInfo).port, close: () => server.close() };
}

/** Runs one of libnfs's programs; a path in `{braces}` becomes its NFS URL. */
export async function runNfs(port: number, program: string, ...args: string[]): Promise<string> {
  const urls = args.map((arg) => arg.replace(/^\{(.*)\}$/, `nfs://127.0.0.1/$1?version=4&nfsport=${port}`));
  const { stdout, stderr } = await promisify(execFile)(program, urls, { timeout: 20_000 });
  // nfs-cp says what went wrong and exits 0.
  if (/fail|error/i.test(stderr)) throw new Error(stderr);
  return stdout;
}

function pemOf(der: Buffer): string {
  return `-----BEGIN CERTIFICATE-----\n${der.toString('base64').replace(/.{64}/g, '$&\n')}\n-----END CERTIFICATE-----\n`;
}
