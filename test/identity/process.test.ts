import { type ChildProcess, fork } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import type {
  AgentToIdentity,
  CertificateReply,
  CertificateRequest,
  IdentityToAgent,
} from '../../src/core/identity-protocol.ts';
import {
  closedEndpoint,
  keysJson,
  makeHome,
  plantedSecret,
  startEndpoint,
  startMetadata,
  startSilentEndpoint,
  startSts,
} from './endpoints.ts';
import { golden, goldenKeyPem } from './golden.ts';

const folder = mkdtempSync(join(tmpdir(), 'efs-agent-identity-'));
const program = join(folder, 'identity.cjs');

beforeAll(async () => {
  // The options of the build script.
  await build({
    entryPoints: ['src/identity/main.ts'],
    outfile: program,
    bundle: true,
    format: 'cjs',
    platform: 'node',
    target: 'node20.19',
    minifySyntax: true,
    logLevel: 'error',
  });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Start = Extract<AgentToIdentity, { kind: 'start' }>;
type Question = AgentToIdentity extends infer M
  ? M extends { requestId: number }
    ? Omit<M, 'requestId'>
    : never
  : never;

const unnamed = { awsProfile: null, awsCredsUri: null };
const place = { region: 'us-east-1', dnsSuffix: 'amazonaws.com' };
const whoami: Question = { kind: 'whoami', credentials: unnamed, ...place };
const certificate = (change: Partial<CertificateRequest> = {}): Question => ({
  kind: 'certificate',
  request: {
    ...place,
    fileSystemId: golden.input.fileSystemId,
    accessPointId: null,
    commonName: 'host.example',
    clientInfo: golden.input.clientInfo,
    privateKeyPem: goldenKeyPem,
    credentials: unnamed,
    ...change,
  },
});

/** A real identity process, as the agent forks it; nothing may appear on its standard streams, and no secret in any failure. */
async function forkIdentity(start: Partial<Start> | null = {}, env: Record<string, string> = {}) {
  const child: ChildProcess = fork(program, {
    serialization: 'advanced',
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    env: { PATH: process.env['PATH'], ...env },
  });
  const received: IdentityToAgent[] = [];
  let output = '';
  child.stdout?.on('data', (chunk) => {
    output += chunk;
  });
  child.stderr?.on('data', (chunk) => {
    output += chunk;
  });
  child.on('message', (message: IdentityToAgent) => received.push(message));
  const exited = once(child, 'exit') as Promise<[number | null, string | null]>;
  onTestFinished(async () => {
    child.kill('SIGKILL');
    await exited;
    expect(output).toBe('');
    expect(JSON.stringify(received)).not.toContain(plantedSecret);
  });
  await expect.poll(() => received[0], { timeout: 5_000 }).toEqual({ kind: 'ready', pid: child.pid });

  let lastId = 0;
  const send = (message: unknown) => void child.send(message as AgentToIdentity);
  if (start) {
    send({
      kind: 'start',
      environment: {},
      metadataEndpoint: closedEndpoint,
      home: '/nonexistent',
      ...start,
    } satisfies Start);
  }
  const ask = async (question: Question) => {
    lastId += 1;
    const requestId = lastId;
    send({ ...question, requestId });
    const find = () => received.find((message) => 'requestId' in message && message.requestId === requestId);
    await expect.poll(find, { timeout: 8_000, interval: 5 }).toBeDefined();
    return find()!;
  };
  return { child, exited, send, ask, received };
}

function replyOf(message: IdentityToAgent): CertificateReply {
  if (message.kind !== 'certificate.done') expect.fail(JSON.stringify(message));
  return message.reply;
}

test('a certificate is signed with the keys of the instance role', async () => {
  const metadata = await startMetadata();
  const { ask } = await forkIdentity({ metadataEndpoint: metadata.url });

  const reply = replyOf(await ask(certificate()));

  expect(reply.identity).toEqual({
    source: 'metadata:app-role',
    accessKeyId: 'ASIAFROMMETADATA',
    arn: null,
    expiresAtMs: expect.any(Number),
  });
  const parsed = new X509Certificate(reply.certificatePem);
  expect(parsed.subject).toBe('CN=host.example');
  expect(parsed.verify(parsed.publicKey)).toBe(true);
  expect(parsed.raw.includes('ASIAFROMMETADATA')).toBe(true);
  expect(Math.abs(reply.notAfterMs - 3 * 3_600_000 - Date.now())).toBeLessThan(10_000);
});

test('a certificate without credentials asks nobody', async () => {
  const metadata = await startMetadata();
  const { ask } = await forkIdentity({ metadataEndpoint: metadata.url });

  const reply = replyOf(await ask(certificate({ credentials: null })));

  expect(reply.identity).toBeNull();
  expect(metadata.asked).toHaveLength(0);
});

test('thirty certificates at once and one more afterwards read the credentials once', async () => {
  const metadata = await startMetadata();
  const { ask } = await forkIdentity({ metadataEndpoint: metadata.url });

  const replies = await Promise.all(Array.from({ length: 30 }, () => ask(certificate())));
  replies.push(await ask(certificate()));

  expect(new Set(replies.map((reply) => replyOf(reply).identity?.accessKeyId))).toEqual(
    new Set(['ASIAFROMMETADATA']),
  );
  expect(metadata.asked).toHaveLength(3);
});

test('credentials with less than five minutes left, and failures, are not kept', async () => {
  const role = '/latest/meta-data/iam/security-credentials/app-role';
  const answers: Record<string, string | number> = { [role]: 404 };
  const metadata = await startEndpoint(({ path }, response) => {
    const body = answers[path] ?? 'app-role';
    if (typeof body === 'string') response.end(body);
    else response.writeHead(body).end();
  });
  const { ask } = await forkIdentity({ metadataEndpoint: metadata.url });

  expect(await ask(certificate())).toMatchObject({ kind: 'failed', error: { code: 'credentials.failed' } });
  answers[role] = keysJson('ASIASOONOVER', Date.now() + 4 * 60_000);
  expect(replyOf(await ask(certificate())).identity?.accessKeyId).toBe('ASIASOONOVER');
  answers[role] = keysJson('ASIANEW');
  expect(replyOf(await ask(certificate())).identity?.accessKeyId).toBe('ASIANEW');
});

test('an edited key of a profile counts at once', async () => {
  const home = staticHome();
  const { ask } = await forkIdentity({ home });

  expect(replyOf(await ask(certificate())).identity?.accessKeyId).toBe('AKIADEFAULT');
  writeFileSync(
    join(home, '.aws/credentials'),
    '[default]\naws_access_key_id = AKIAEDITED\naws_secret_access_key = s\n',
  );
  expect(replyOf(await ask(certificate())).identity?.accessKeyId).toBe('AKIAEDITED');
});

test("the caller's environment and home count, and the agent's own do not", async () => {
  const metadata = await startMetadata();
  const agentHome = makeHome({
    credentials: '[default]\naws_access_key_id = AKIAAGENT\naws_secret_access_key = s\n',
  });
  const { ask } = await forkIdentity(
    { metadataEndpoint: null, environment: { AWS_EC2_METADATA_SERVICE_ENDPOINT: metadata.url } },
    {
      HOME: agentHome,
      AWS_PROFILE: 'agent',
      AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: '/agent',
      http_proxy: closedEndpoint,
      NODE_USE_ENV_PROXY: '1',
    },
  );

  expect(replyOf(await ask(certificate())).identity?.source).toBe('metadata:app-role');
});

test('requests run side by side: a silent source does not delay a certificate without credentials', async () => {
  const { ask } = await forkIdentity({ metadataEndpoint: await startSilentEndpoint() });
  const order: string[] = [];

  const slow = ask(certificate()).then((message) => order.push(message.kind));
  const quick = ask(certificate({ credentials: null })).then((message) => order.push(message.kind));
  await Promise.all([slow, quick]);

  expect(order).toEqual(['certificate.done', 'failed']);
});

test('the instance tells where it runs', async () => {
  const metadata = await startMetadata();
  const { ask } = await forkIdentity({ metadataEndpoint: metadata.url });

  expect(await ask({ kind: 'instance' })).toMatchObject({
    kind: 'instance.done',
    instance: { region: 'eu-central-1', availabilityZone: 'eu-central-1b', accountId: '123456789012' },
  });
});

test('whoami of an instance role is its assumed role, without asking STS', async () => {
  const metadata = await startMetadata();
  const { ask } = await forkIdentity({
    metadataEndpoint: metadata.url,
    environment: { AWS_ENDPOINT_URL_STS: closedEndpoint },
  });

  expect(await ask(whoami)).toMatchObject({
    kind: 'whoami.done',
    identity: {
      source: 'metadata:app-role',
      arn: 'arn:aws:sts::123456789012:assumed-role/app-role/i-0123456789abcdef0',
    },
  });
});

const staticHome = () =>
  makeHome({
    credentials: `[default]\naws_access_key_id = AKIADEFAULT\naws_secret_access_key = ${plantedSecret}\n`,
  });

test('whoami of a profile asks STS', async () => {
  const sts = await startSts();
  const { ask } = await forkIdentity({ home: staticHome(), environment: { AWS_ENDPOINT_URL_STS: sts.url } });

  expect(await ask(whoami)).toMatchObject({
    identity: {
      source: 'credentials:default',
      accessKeyId: 'AKIADEFAULT',
      arn: 'arn:aws:sts::123456789012:assumed-role/web-role/efs-mount-helper',
      expiresAtMs: null,
    },
  });
});

test('whoami without a way to STS still names the access key', async () => {
  for (const url of [closedEndpoint, await startSilentEndpoint()]) {
    const { ask } = await forkIdentity({ home: staticHome(), environment: { AWS_ENDPOINT_URL_STS: url } });

    expect(await ask(whoami)).toMatchObject({
      kind: 'whoami.done',
      identity: { accessKeyId: 'AKIADEFAULT', arn: null },
    });
  }
});

test('whoami with keys that STS refuses fails with its error code', async () => {
  const sts = await startSts('InvalidClientTokenId');
  const { ask } = await forkIdentity({ home: staticHome(), environment: { AWS_ENDPOINT_URL_STS: sts.url } });

  expect(await ask(whoami)).toMatchObject({
    kind: 'failed',
    error: { code: 'credentials.rejected', message: expect.stringContaining('InvalidClientTokenId') },
  });
});

const roleHome = () =>
  makeHome({
    credentials: `[base]\naws_access_key_id = AKIABASE\naws_secret_access_key = ${plantedSecret}\n`,
    config: '[profile role]\nrole_arn = arn:aws:iam::123456789012:role/web-role\nsource_profile = base\n',
  });

test('a profile that assumes a role gives the keys of the role', async () => {
  const sts = await startSts();
  const { ask } = await forkIdentity({
    home: roleHome(),
    environment: { AWS_PROFILE: 'role', AWS_ENDPOINT_URL_STS: sts.url },
  });

  expect(replyOf(await ask(certificate())).identity).toMatchObject({
    source: 'named_profile:role',
    accessKeyId: 'ASIAFROMSTS',
  });
  expect(sts.asked).toHaveLength(1);
});

test('a profile whose role may not be assumed fails with the error code of STS', async () => {
  const sts = await startSts('AccessDenied');
  const { ask } = await forkIdentity({ home: roleHome(), environment: { AWS_ENDPOINT_URL_STS: sts.url } });

  const answer = await ask(certificate({ credentials: { awsProfile: 'role', awsCredsUri: null } }));

  expect(answer).toMatchObject({
    kind: 'failed',
    error: {
      code: 'credentials.rejected',
      message: expect.stringMatching(/under named profile \[role\]: its role_arn answered AccessDenied/),
    },
  });
});

test('a credential_process gives keys, and when it fails neither its command nor its output is shown', async () => {
  const json = JSON.stringify({ Version: 1, AccessKeyId: 'ASIAPROCESS', SecretAccessKey: plantedSecret });
  const config = `[profile good]\ncredential_process = echo '${json}'\n[profile bad]\ncredential_process = sh -c "echo ${plantedSecret} >&2; exit 1"\n`;
  const { ask } = await forkIdentity({ home: makeHome({ config }) });

  const good = await ask(certificate({ credentials: { awsProfile: 'good', awsCredsUri: null } }));
  const bad = await ask(certificate({ credentials: { awsProfile: 'bad', awsCredsUri: null } }));

  expect(replyOf(good).identity).toMatchObject({ source: 'named_profile:good', accessKeyId: 'ASIAPROCESS' });
  expect(bad).toMatchObject({
    kind: 'failed',
    error: { code: 'credentials.failed', message: expect.stringContaining('its credential_process') },
  });
});

test('the process leaves with status 0 when it had nothing to do for a while, and not while it works', async () => {
  const { ask, exited } = await forkIdentity({
    idleExitMs: 100,
    metadataEndpoint: await startSilentEndpoint(),
  });

  const answer = await ask(certificate());

  expect(answer.kind).toBe('failed');
  expect(await exited).toEqual([0, null]);
});

test('the process leaves when the agent is gone, even in the middle of a request', async () => {
  const { child, exited, send } = await forkIdentity({ metadataEndpoint: await startSilentEndpoint() });
  send({ ...certificate(), requestId: 1 });

  child.disconnect();

  expect(await exited).toEqual([0, null]);
});

test('SIGTERM ends the process', async () => {
  const { child, exited } = await forkIdentity();

  child.kill('SIGTERM');

  expect(await exited).toEqual([null, 'SIGTERM']);
});

test('what cannot be answered fails with one code and no stack trace', async () => {
  const early = await forkIdentity(null);
  const { ask } = await forkIdentity();

  expect(await early.ask({ kind: 'instance' })).toMatchObject({
    kind: 'failed',
    error: { code: 'agent.protocol' },
  });
  expect(await ask({ kind: 'future' } as unknown as Question)).toMatchObject({
    kind: 'failed',
    error: { code: 'agent.protocol' },
  });
  expect(await ask({ kind: 'certificate' } as unknown as Question)).toEqual({
    kind: 'failed',
    requestId: 2,
    error: { code: 'internal', message: 'unexpected TypeError in the identity process', details: {} },
  });
  expect(await ask(certificate({ privateKeyPem: plantedSecret, credentials: null }))).toMatchObject({
    error: { code: 'internal' },
  });
});
