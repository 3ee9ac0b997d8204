import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import net, { type AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import type { MountTarget } from '../../src/identity/mount-targets.ts';

export interface Asked {
  method: string;
  path: string;
  headers: IncomingMessage['headers'];
  body: string;
}

export interface Endpoint {
  url: string;
  /** Every request so far. */
  asked: Asked[];
}

/** A secret that must never appear in any message. */
export const plantedSecret = 'PLANTED+secret/0123456789abcdef';

/** A real HTTP server on loopback that ends with the test. */
export async function startEndpoint(
  answer: (asked: Asked, response: ServerResponse) => void,
  host = '127.0.0.1',
): Promise<Endpoint> {
  const asked: Asked[] = [];
  const server = http.createServer((request, response) => {
    let body = '';
    request.on('data', (chunk: Buffer) => {
      body += chunk.toString();
    });
    request.on('end', () => {
      const one = { method: request.method ?? '', path: request.url ?? '', headers: request.headers, body };
      asked.push(one);
      answer(one, response);
    });
  });
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: await listen(server, host), asked };
}

/** A server that accepts connections and never says a word. */
export function startSilentEndpoint(): Promise<string> {
  return startRawEndpoint(() => undefined);
}

/** A TCP server that does as it is told once a request has come. */
export async function startRawEndpoint(answer: (socket: net.Socket) => void): Promise<string> {
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('data', () => answer(socket));
  });
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return listen(server);
}

/** An address on which nothing listens. A port that was just closed would be another test's a moment later. */
export const closedEndpoint = 'http://127.0.0.1:1';

/** Keys as metadata, ECS and EKS hand them out; `id` tells the sources apart. */
export function keysJson(id: string, expiresAtMs = Date.now() + 6 * 3_600_000): string {
  return JSON.stringify({
    Code: 'Success',
    AccessKeyId: id,
    SecretAccessKey: plantedSecret,
    Token: `${plantedSecret}==`,
    Expiration: new Date(expiresAtMs).toISOString(),
  });
}

/** An instance metadata service that insists on version 2; `paths` overrides answers, a number is a status. */
export function startMetadata(
  paths: Record<string, string | number> = {},
  host = '127.0.0.1',
): Promise<Endpoint> {
  const roles = '/latest/meta-data/iam/security-credentials/';
  const known: Record<string, string | number> = {
    [roles]: 'app-role',
    [`${roles}app-role`]: keysJson('ASIAFROMMETADATA'),
    '/latest/meta-data/iam/info': JSON.stringify({
      Code: 'Success',
      InstanceProfileArn: 'arn:aws:iam::123456789012:instance-profile/app-profile',
    }),
    '/latest/meta-data/placement/availability-zone-id': 'euc1-az2',
    '/latest/meta-data/instance-id': 'i-0123456789abcdef0',
    '/latest/dynamic/instance-identity/document': JSON.stringify({
      region: 'eu-central-1',
      availabilityZone: 'eu-central-1b',
      instanceId: 'i-0123456789abcdef0',
      accountId: '123456789012',
    }),
    '/latest/api/token': 'session-token',
    ...paths,
  };
  return startEndpoint((asked, response) => {
    const isToken = asked.path === '/latest/api/token';
    const isAllowed = isToken
      ? asked.method === 'PUT' && asked.headers['x-aws-ec2-metadata-token-ttl-seconds'] === '21600'
      : asked.headers['x-aws-ec2-metadata-token'] === 'session-token';
    const body = isAllowed ? (known[asked.path] ?? 404) : 401;
    if (typeof body === 'string') response.end(body);
    else response.writeHead(body).end(plantedSecret);
  }, host);
}

/** An STS that answers AssumeRole, AssumeRoleWithWebIdentity and GetCallerIdentity, or refuses with the error code that `refuse` gives. */
export function startSts(
  refuse: string | ((asked: Asked) => string | null) | null = null,
): Promise<Endpoint> {
  return startEndpoint((asked, response) => {
    const errorCode = typeof refuse === 'function' ? refuse(asked) : refuse;
    const action = new URLSearchParams(asked.body).get('Action') ?? '';
    response.setHeader('content-type', 'text/xml');
    if (errorCode) {
      const error = `<Error><Type>Sender</Type><Code>${errorCode}</Code><Message>${plantedSecret}</Message></Error>`;
      response
        .writeHead(403)
        .end(`<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">${error}</ErrorResponse>`);
      return;
    }
    const arn = `<Arn>arn:aws:sts::123456789012:assumed-role/web-role/efs-mount-helper</Arn>`;
    const result =
      action === 'GetCallerIdentity'
        ? `${arn}<UserId>AIDA</UserId><Account>123456789012</Account>`
        : `<Credentials><AccessKeyId>ASIAFROMSTS</AccessKeyId><SecretAccessKey>${plantedSecret}</SecretAccessKey>` +
          `<SessionToken>${plantedSecret}</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>` +
          `<AssumedRoleUser>${arn}<AssumedRoleId>AROA:x</AssumedRoleId></AssumedRoleUser>`;
    response.end(
      `<${action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><${action}Result>${result}</${action}Result></${action}Response>`,
    );
  });
}

/** An EFS that describes these mount targets of any file system, or answers with this error code. */
export function startEfs(targets: readonly MountTarget[] | string): Promise<Endpoint> {
  return startEndpoint((_, response) => {
    response.setHeader('content-type', 'application/json');
    if (typeof targets === 'string') {
      const isOwnFault = /^(ServiceUnavailable|Internal)/.test(targets);
      response.writeHead(isOwnFault ? 503 : 400, { 'x-amzn-errortype': targets });
      response.end(JSON.stringify({ ErrorCode: targets, Message: plantedSecret }));
      return;
    }
    const MountTargets = targets.map((target) => ({
      MountTargetId: target.mountTargetId,
      FileSystemId: 'fs-0123456789abcdef0',
      LifeCycleState: target.state,
      AvailabilityZoneName: target.zone,
      AvailabilityZoneId: target.zoneId,
      IpAddress: target.ipv4,
      Ipv6Address: target.ipv6,
    }));
    response.end(JSON.stringify({ MountTargets }));
  });
}

/** An EC2 whose zone `us-east-1x` has the id `use1-azx`; it allows the rehearsal, or answers all with `errorCode`. */
export function startEc2(errorCode: string | null = null): Promise<Endpoint> {
  return startEndpoint((asked, response) => {
    const question = new URLSearchParams(asked.body);
    const code = errorCode ?? (question.get('DryRun') === 'true' ? 'DryRunOperation' : null);
    if (code !== null) {
      const error = `<Error><Code>${code}</Code><Message>${plantedSecret}</Message></Error>`;
      response.writeHead(400).end(`<Response><Errors>${error}</Errors><RequestID>r</RequestID></Response>`);
      return;
    }
    const name = question.get('ZoneName.1') ?? '';
    const zone = `<zoneName>${name}</zoneName><zoneId>use1-az${name.slice(-1)}</zoneId>`;
    response.end(
      '<DescribeAvailabilityZonesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">' +
        `<availabilityZoneInfo><item>${zone}</item></availabilityZoneInfo></DescribeAvailabilityZonesResponse>`,
    );
  });
}

/** A home directory with the given files under `.aws`, removed with the test. */
export function makeHome(files: Record<string, string> = {}): string {
  const home = mkdtempSync(join(tmpdir(), 'efs-agent-home-'));
  onTestFinished(() => rmSync(home, { recursive: true, force: true }));
  mkdirSync(join(home, '.aws'));
  for (const [name, text] of Object.entries(files)) writeFileSync(join(home, '.aws', name), text);
  return home;
}

async function listen(server: net.Server, host = '127.0.0.1'): Promise<string> {
  server.listen(0, host);
  await once(server, 'listening');
  return `http://${net.isIPv6(host) ? `[${host}]` : host}:${(server.address() as AddressInfo).port}`;
}
