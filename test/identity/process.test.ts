import { createHash, X509Certificate } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type {
  CertificateReply,
  CertificateRequest,
  IdentityToAgent,
} from '../../src/core/identity-protocol.ts';
import {
  closedEndpoint,
  keysJson,
  makeHome,
  plantedSecret,
  startEc2,
  startEfs,
  startEndpoint,
  startMetadata,
  startSilentEndpoint,
  startSts,
} from './endpoints.ts';
import { forkIdentity, type Question } from './forked.ts';
import { golden, goldenKeyPem } from './golden.ts';

const unnamed = { awsProfile: null, awsCredsUri: null, roleArn: null, jwtPath: null };
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
      // Node 22 calls the proxy support experimental.
      NODE_NO_WARNINGS: '1',
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

  const answer = await ask(certificate({ credentials: { ...unnamed, awsProfile: 'role' } }));

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

  const good = await ask(certificate({ credentials: { ...unnamed, awsProfile: 'good' } }));
  const bad = await ask(certificate({ credentials: { ...unnamed, awsProfile: 'bad' } }));

  expect(replyOf(good).identity).toMatchObject({ source: 'named_profile:good', accessKeyId: 'ASIAPROCESS' });
  expect(bad).toMatchObject({
    kind: 'failed',
    error: { code: 'credentials.failed', message: expect.stringContaining('its credential_process') },
  });
});

test('thirty mounts that start together make one call to STS for a web identity, and one for whoami', async () => {
  const sts = await startSts();
  const tokenPath = join(makeHome({ token: 'the-token' }), '.aws/token');
  const { ask } = await forkIdentity({ environment: { AWS_ENDPOINT_URL_STS: sts.url } });
  const credentials = { ...unnamed, roleArn: 'arn:aws:iam::123456789012:role/r', jwtPath: tokenPath };
  const home = await forkIdentity({ home: staticHome(), environment: { AWS_ENDPOINT_URL_STS: sts.url } });

  const replies = await Promise.all(Array.from({ length: 30 }, () => ask(certificate({ credentials }))));
  expect(new Set(replies.map((reply) => replyOf(reply).identity?.accessKeyId))).toEqual(
    new Set(['ASIAFROMSTS']),
  );
  expect(sts.asked).toHaveLength(1);

  await Promise.all(Array.from({ length: 30 }, () => home.ask(whoami)));
  expect(sts.asked).toHaveLength(2);
});

test('thirty mounts that ask where the instance runs read the identity document once', async () => {
  const metadata = await startMetadata();
  const { ask } = await forkIdentity({ metadataEndpoint: metadata.url });

  await Promise.all(Array.from({ length: 30 }, () => ask({ kind: 'instance' })));

  expect(metadata.asked.map(({ method }) => method)).toEqual(['PUT', 'GET']);
});

test('the id of the zone is read only when it is asked for', async () => {
  const metadata = await startMetadata();
  const { ask } = await forkIdentity({ metadataEndpoint: metadata.url });

  expect(await ask({ kind: 'instance' })).toMatchObject({ instance: { availabilityZoneId: null } });
  expect(metadata.asked).toHaveLength(2);
  expect(await ask({ kind: 'instance', withZoneId: true })).toMatchObject({
    instance: { availabilityZone: 'eu-central-1b', availabilityZoneId: 'euc1-az2' },
  });
});

const targetIn = (letter: string) => ({
  mountTargetId: `fsmt-${letter}`,
  state: 'available',
  zone: `eu-central-1${letter}`,
  zoneId: `use1-az${letter}`,
  ipv4: `10.0.0.${letter.charCodeAt(0)}`,
  ipv6: null,
});
const mountTargets = (change: { region?: string; zone?: string | null } = {}): Question => ({
  kind: 'mountTargets',
  request: {
    fileSystemId: golden.input.fileSystemId,
    zone: null,
    region: 'eu-central-1',
    dnsSuffix: 'amazonaws.com',
    credentials: unnamed,
    ...change,
  },
});

test("without a zone the mount target of the instance's own zone is found, by one call for thirty who ask", async () => {
  const [metadata, efs, ec2] = await Promise.all([
    startMetadata(),
    startEfs([targetIn('a'), targetIn('b')]),
    startEc2(),
  ]);
  const { ask } = await forkIdentity({
    metadataEndpoint: metadata.url,
    environment: { AWS_ENDPOINT_URL_EFS: efs.url, AWS_ENDPOINT_URL_EC2: ec2.url },
  });

  const replies = await Promise.all(Array.from({ length: 30 }, () => ask(mountTargets())));

  const found = { mountTargetId: 'fsmt-b', zone: 'eu-central-1b', addresses: ['10.0.0.98'] };
  for (const reply of replies) expect(reply).toMatchObject({ kind: 'mountTargets.done', mountTarget: found });
  expect(efs.asked).toHaveLength(1);
  expect(ec2.asked).toHaveLength(2);
});

test('for a file system of another region, and outside of EC2, any mount target is taken', async () => {
  const [metadata, efs, ec2] = await Promise.all([startMetadata(), startEfs([targetIn('a')]), startEc2()]);
  const environment = { AWS_ENDPOINT_URL_EFS: efs.url, AWS_ENDPOINT_URL_EC2: ec2.url };
  const away = await forkIdentity({ metadataEndpoint: metadata.url, environment });
  const outside = await forkIdentity({
    environment: { ...environment, AWS_ACCESS_KEY_ID: 'AKIA', AWS_SECRET_ACCESS_KEY: plantedSecret },
  });

  expect(await away.ask(mountTargets({ region: 'us-east-1' }))).toMatchObject({ kind: 'mountTargets.done' });
  expect(await outside.ask(mountTargets())).toMatchObject({ kind: 'mountTargets.done' });
  expect(ec2.asked).toHaveLength(0);
});

test('without credentials the mount target cannot be looked up, and that is said', async () => {
  const { ask } = await forkIdentity();

  expect(await ask(mountTargets())).toMatchObject({
    kind: 'failed',
    error: { code: 'credentials.metadata-silent', message: expect.stringContaining('Tried:') },
  });
});

const environmentKeys = {
  AWS_ACCESS_KEY_ID: 'AKIAENVIRONMENT',
  AWS_SECRET_ACCESS_KEY: plantedSecret,
  AWS_SESSION_TOKEN: `${plantedSecret}==`,
};

test('the keys of the environment sign, and stand in the environment of no process', async () => {
  const report = JSON.stringify({ Version: 1, AccessKeyId: 'ASIAPROCESS', SecretAccessKey: 's' });
  const home = makeHome();
  const seen = join(home, 'seen');
  const program = `[profile program]\ncredential_process = sh -c "env > ${seen}; cat ${home}/report"\n`;
  writeFileSync(join(home, 'report'), report);
  writeFileSync(
    join(home, '.aws/config'),
    `${program}[profile mine]\nrole_arn = arn:aws:iam::123456789012:role/r\ncredential_source = Environment\n`,
  );
  const sts = await startSts();
  const environment = { ...environmentKeys, AWS_ENDPOINT_URL_STS: sts.url };
  const { ask, child } = await forkIdentity({ home, environment });
  const askAs = (awsProfile: string | null) => ask(certificate({ credentials: { ...unnamed, awsProfile } }));

  const [own, mine, other] = await Promise.all([askAs(null), askAs('mine'), askAs('program')]);

  expect(replyOf(own).identity).toMatchObject({ source: 'environment', accessKeyId: 'AKIAENVIRONMENT' });
  expect(replyOf(mine).identity).toMatchObject({ source: 'named_profile:mine', accessKeyId: 'ASIAFROMSTS' });
  expect(sts.asked[0]!.headers.authorization).toContain('Credential=AKIAENVIRONMENT/');
  expect(replyOf(other).identity?.accessKeyId).toBe('ASIAPROCESS');
  expect(readFileSync(seen, 'utf8')).toContain('AWS_ENDPOINT_URL_STS');
  for (const text of [readFileSync(seen, 'utf8'), readFileSync(`/proc/${child.pid}/environ`, 'utf8')]) {
    expect(text).not.toContain(plantedSecret);
    expect(text).not.toContain('AKIAENVIRONMENT');
  }
});

test('an SSO profile gives the keys of its role while the sign-in lasts, and says how to sign in afterwards', async () => {
  const sso = await startEndpoint(({ headers }, response) => {
    expect(headers['x-amz-sso_bearer_token']).toBe(plantedSecret);
    const roleCredentials = {
      accessKeyId: 'ASIASSO',
      secretAccessKey: plantedSecret,
      sessionToken: plantedSecret,
      expiration: Date.now() + 3_600_000,
    };
    response.end(JSON.stringify({ roleCredentials }));
  });
  const config =
    '[profile sso]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Reader\n' +
    '[sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://corp.example/start\n';
  const home = makeHome({ config });
  const cache = join(home, '.aws/sso/cache');
  mkdirSync(cache, { recursive: true });
  const signIn = (expiresAtMs: number) =>
    writeFileSync(
      join(cache, `${createHash('sha1').update('corp').digest('hex')}.json`),
      JSON.stringify({ accessToken: plantedSecret, expiresAt: new Date(expiresAtMs).toISOString() }),
    );
  const environment = { AWS_PROFILE: 'sso', AWS_ENDPOINT_URL_SSO: sso.url };

  signIn(Date.now() + 3_600_000);
  const { ask } = await forkIdentity({ home, environment });
  expect(replyOf(await ask(certificate())).identity).toMatchObject({
    source: 'named_profile:sso',
    accessKeyId: 'ASIASSO',
  });
  expect(sso.asked).toHaveLength(1);

  signIn(0);
  const later = await forkIdentity({ home, environment });
  expect(await later.ask(certificate())).toMatchObject({
    kind: 'failed',
    error: {
      code: 'credentials.failed',
      message: expect.stringContaining('under named profile [sso]: its sso_session'),
      details: { hint: 'Sign in as root: aws sso login --profile sso.' },
    },
  });
});

test('a profile with credential_source = Ec2InstanceMetadata assumes its role with the keys of the instance', async () => {
  const [metadata, sts] = await Promise.all([startMetadata(), startSts()]);
  const home = makeHome({
    config:
      '[profile role]\nrole_arn = arn:aws:iam::123456789012:role/r\ncredential_source = Ec2InstanceMetadata\n',
  });
  const { ask } = await forkIdentity({
    home,
    metadataEndpoint: metadata.url,
    environment: { AWS_PROFILE: 'role', AWS_ENDPOINT_URL_STS: sts.url },
  });

  expect(replyOf(await ask(certificate())).identity?.accessKeyId).toBe('ASIAFROMSTS');
  expect(sts.asked[0]!.headers.authorization).toContain('Credential=ASIAFROMMETADATA/');
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
