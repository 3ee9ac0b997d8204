import { randomBytes, randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { AgentError } from '../core/errors.ts';
import type { CredentialIssuer, IssuedCredentials } from './credentials.ts';
import { awsTime, principalIdOf } from './events.ts';

/** The instance that the metadata service describes. */
export interface InstanceDescription {
  region: string;
  partition: string;
  accountId: string;
  instanceId: string;
  roleName: string;
  hostName: string;
  localIp: string;
}

export interface MetadataService {
  /** `http://<address>:<port>`. */
  url: string;
  close(): Promise<void>;
}

export interface MetadataOptions {
  address: string;
  port: number;
  instance: InstanceDescription;
  issuer: CredentialIssuer;
  /** Whether requests without a session token (IMDSv1) are answered. */
  tokenOptional: boolean;
  nowMs: () => number;
}

interface Answer {
  status: number;
  type: string;
  body: string;
  headers?: Record<string, string>;
}

const longestTokenLifeSeconds = 21_600;
const longestFormBytes = 65_536;

/**
 * Opens the HTTP server that answers as the instance metadata service (IMDSv2), as the ECS credentials
 * endpoint (`/v2/credentials/<session name>`) and as STS for GetCallerIdentity.
 *
 * Errors: `port.taken`. Source: EC2 user guide, "Use the Instance Metadata Service"; specification 4.4.
 */
export async function openMetadataService(options: MetadataOptions): Promise<MetadataService> {
  const tokens = new Map<string, number>();
  const server = createServer((request, response) => {
    answer(request, options, tokens).then(
      (content) => send(response, content),
      // The client went away while it sent its form.
      () => response.destroy(),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(
        new AgentError(
          'port.taken',
          `cannot listen for metadata requests on ${options.address}:${options.port}: ${cause.message}`,
          {
            address: options.address,
            port: options.port,
            hint: 'Choose another address or port with --metadata.',
          },
          cause,
        ),
      ),
    );
    server.listen(options.port, options.address, resolve);
  });
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${options.address.includes(':') ? `[${options.address}]` : options.address}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answer(
  request: IncomingMessage,
  options: MetadataOptions,
  tokens: Map<string, number>,
): Promise<Answer> {
  const path = (request.url ?? '/').replace(/\?.*$/, '');
  if (path === '/') return answerSts(request, await readBody(request), options);
  const ecsSession = /^\/v2\/credentials\/([\w+=,.@-]{2,64})$/.exec(path);
  if (ecsSession !== null) {
    const issued = options.issuer.issue(ecsSession[1]!);
    return json({ RoleArn: issued.principal.roleArn, ...credentialFields(issued) });
  }
  if (path === '/latest/api/token') return answerToken(request, tokens, options.nowMs());
  if (!path.startsWith('/latest/')) return plain(404, 'Not Found');
  if (request.method !== 'GET') return plain(405, 'Method Not Allowed');
  const token = request.headers['x-aws-ec2-metadata-token'];
  const isKnown = typeof token === 'string' && (tokens.get(token) ?? 0) > options.nowMs();
  if (!isKnown && !(options.tokenOptional && token === undefined)) return plain(401, 'Unauthorized');
  return answerMetadata(path.slice('/latest/'.length), options);
}

function answerToken(request: IncomingMessage, tokens: Map<string, number>, nowMs: number): Answer {
  if (request.method !== 'PUT') return plain(405, 'Method Not Allowed');
  // A request that came through a proxy is not from the instance.
  if (request.headers['x-forwarded-for'] !== undefined) return plain(403, 'Forbidden');
  const wanted = request.headers['x-aws-ec2-metadata-token-ttl-seconds'];
  const lifeSeconds = typeof wanted === 'string' && /^\d{1,5}$/.test(wanted) ? Number(wanted) : 0;
  if (lifeSeconds < 1 || lifeSeconds > longestTokenLifeSeconds) return plain(400, 'Bad Request');
  for (const [token, expiresAtMs] of tokens) if (expiresAtMs <= nowMs) tokens.delete(token);
  const token = `AQAEA${randomBytes(38).toString('base64url')}==`;
  tokens.set(token, nowMs + lifeSeconds * 1_000);
  return { ...plain(200, token), headers: { 'x-aws-ec2-metadata-token-ttl-seconds': String(lifeSeconds) } };
}

function answerMetadata(path: string, { instance, issuer }: MetadataOptions): Answer {
  const roleArn = `arn:${instance.partition}:iam::${instance.accountId}:role/${instance.roleName}`;
  const texts: Record<string, string> = {
    'meta-data/instance-id': instance.instanceId,
    'meta-data/hostname': instance.hostName,
    'meta-data/local-hostname': instance.hostName,
    'meta-data/local-ipv4': instance.localIp,
    'meta-data/placement/region': instance.region,
    'meta-data/placement/availability-zone': `${instance.region}a`,
    'meta-data/placement/availability-zone-id': zoneIdOf(instance.region),
    'meta-data/services/domain': instance.partition === 'aws-cn' ? 'amazonaws.com.cn' : 'amazonaws.com',
    'meta-data/iam/security-credentials': instance.roleName,
  };
  const name = path.replace(/\/$/, '');
  const text = Object.hasOwn(texts, name) ? texts[name] : undefined;
  if (text !== undefined) return plain(200, text);
  if (name === 'dynamic/instance-identity/document') return json(identityDocument(instance));
  if (name === 'meta-data/iam/info') {
    const issued = issuer.issue(instance.instanceId);
    return json({
      Code: 'Success',
      LastUpdated: awsTime(issued.issuedAtMs),
      InstanceProfileArn: `arn:${instance.partition}:iam::${instance.accountId}:instance-profile/${instance.roleName}`,
      InstanceProfileId: principalIdOf(roleArn).replace('AROA', 'AIPA'),
    });
  }
  if (name === `meta-data/iam/security-credentials/${instance.roleName}`) {
    const issued = issuer.issue(instance.instanceId);
    return json({
      Code: 'Success',
      LastUpdated: awsTime(issued.issuedAtMs),
      Type: 'AWS-HMAC',
      ...credentialFields(issued),
    });
  }
  return plain(404, 'Not Found');
}

/** STS, as far as GetCallerIdentity: whether the access key is known, not whether the request is well signed. */
function answerSts(request: IncomingMessage, form: string, { issuer, nowMs }: MetadataOptions): Answer {
  const action = new URLSearchParams(form).get('Action');
  if (request.method !== 'POST' || action !== 'GetCallerIdentity') {
    return stsError(400, 'InvalidAction', 'Only GetCallerIdentity is answered here.');
  }
  const credential = /Credential=([A-Z0-9]+)\//.exec(request.headers['authorization'] ?? '');
  const known = credential === null ? undefined : issuer.find(credential[1]!);
  if (known === undefined) {
    return stsError(403, 'InvalidClientTokenId', 'The security token included in the request is invalid.');
  }
  if (known.expiresAtMs < nowMs()) {
    return stsError(403, 'ExpiredToken', 'The security token included in the request is expired.');
  }
  const { sessionArn, accountId, roleArn } = known.principal;
  const userId = `${principalIdOf(roleArn)}:${sessionArn.slice(sessionArn.lastIndexOf('/') + 1)}`;
  return {
    status: 200,
    type: 'text/xml',
    body:
      `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>` +
      `<Arn>${sessionArn}</Arn><UserId>${userId}</UserId><Account>${accountId}</Account></GetCallerIdentityResult>` +
      `<ResponseMetadata><RequestId>${randomUUID()}</RequestId></ResponseMetadata></GetCallerIdentityResponse>`,
  };
}

function stsError(status: number, code: string, message: string): Answer {
  return {
    status,
    type: 'text/xml',
    body:
      `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>${code}</Code>` +
      `<Message>${message}</Message></Error><RequestId>${randomUUID()}</RequestId></ErrorResponse>`,
  };
}

function identityDocument(instance: InstanceDescription) {
  return {
    accountId: instance.accountId,
    architecture: process.arch === 'arm64' ? 'arm64' : 'x86_64',
    availabilityZone: `${instance.region}a`,
    billingProducts: null,
    devpayProductCodes: null,
    marketplaceProductCodes: null,
    imageId: 'ami-0123456789abcdef0',
    instanceId: instance.instanceId,
    instanceType: 't3.micro',
    kernelId: null,
    pendingTime: '2024-01-01T00:00:00Z',
    privateIp: instance.localIp,
    ramdiskId: null,
    region: instance.region,
    version: '2017-09-30',
  };
}

/** `us-east-1` -> `use1-az1`, `ap-southeast-2` -> `apse2-az1`: the service's abbreviations. */
function zoneIdOf(region: string): string {
  const [area = '', ...words] = region.split('-');
  const short = words.map((word) =>
    (word.match(/north|south|east|west|\d+|^./g) ?? []).map((part) => (/\d/.test(part) ? part : part[0])),
  );
  return `${area}${short.flat().join('')}-az1`;
}

function credentialFields(issued: IssuedCredentials) {
  return {
    AccessKeyId: issued.accessKeyId,
    SecretAccessKey: issued.secretAccessKey,
    Token: issued.sessionToken,
    Expiration: awsTime(issued.expiresAtMs),
  };
}

function json(value: unknown): Answer {
  return { status: 200, type: 'application/json', body: `${JSON.stringify(value, null, 2)}\n` };
}

function plain(status: number, body: string): Answer {
  return { status, type: 'text/plain', body };
}

function send(response: ServerResponse, { status, type, body, headers = {} }: Answer): void {
  response.writeHead(status, { 'content-type': type, 'content-length': Buffer.byteLength(body), ...headers });
  response.end(body);
}

async function readBody(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > longestFormBytes) throw new Error('the form is too long');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString();
}
