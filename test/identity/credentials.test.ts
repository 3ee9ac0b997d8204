import { mkdirSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { AgentError } from '../../src/core/errors.ts';
import type { CredentialsRequest } from '../../src/core/identity-protocol.ts';
import { type CallerContext, findCredentials } from '../../src/identity/credentials.ts';
import { readInstance, readRoleArn } from '../../src/identity/metadata.ts';
import {
  closedEndpoint as closed,
  keysJson,
  makeHome,
  plantedSecret,
  startEndpoint,
  startMetadata,
  startRawEndpoint,
  startSilentEndpoint,
  startSts,
} from './endpoints.ts';

const unnamed: CredentialsRequest = { awsProfile: null, awsCredsUri: null };

function find(request: Partial<CredentialsRequest>, caller: Partial<CallerContext>) {
  const context = {
    environment: {},
    home: '/nonexistent',
    metadataEndpoint: closed,
    containerEndpoint: closed,
    ...caller,
  };
  const place = { region: 'us-east-1', dnsSuffix: 'amazonaws.com', environment: context.environment };
  return findCredentials({ ...unnamed, ...request }, context, place, Date.now());
}

async function failureOf(
  request: Partial<CredentialsRequest>,
  caller: Partial<CallerContext>,
): Promise<AgentError> {
  const error = await find(request, caller).then(
    () => expect.fail('credentials were found'),
    (thrown: AgentError) => thrown,
  );
  expect(error.name).toBe('AgentError');
  expect(JSON.stringify(error.toMessage())).not.toContain(plantedSecret);
  return error;
}

function serveKeys(id: string) {
  return startEndpoint((_, response) => response.end(keysJson(id)));
}

/** Every source is there, each with keys of its own name; taking one away shows which is next. */
async function startEverything() {
  const [metadata, ecs, pod, sts] = await Promise.all([
    startMetadata(),
    serveKeys('ASIAECS'),
    serveKeys('ASIAPOD'),
    startSts(),
  ]);
  const home = makeHome({
    credentials:
      '[default]\naws_access_key_id = AKIADEFAULT\naws_secret_access_key = s\n[named]\naws_access_key_id = AKIANAMED\naws_secret_access_key = s\n',
    token: 'the-token\n',
  });
  const environment: Record<string, string> = {
    AWS_PROFILE: 'named',
    AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: '/v2/relative',
    AWS_CONTAINER_CREDENTIALS_FULL_URI: `${pod.url}/v1/credentials`,
    AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: join(home, '.aws/token'),
    AWS_ROLE_ARN: 'arn:aws:iam::123456789012:role/web-role',
    AWS_WEB_IDENTITY_TOKEN_FILE: join(home, '.aws/token'),
    AWS_ENDPOINT_URL_STS: sts.url,
    AWS_ACCESS_KEY_ID: 'AKIAENVIRONMENT',
    AWS_SECRET_ACCESS_KEY: plantedSecret,
  };
  return { metadata, ecs, pod, sts, home, environment };
}

test('the sources are asked in their order, and only the first that has credentials', async () => {
  const { metadata, ecs, pod, sts, home, environment } = await startEverything();
  const caller = { home, environment, metadataEndpoint: metadata.url, containerEndpoint: ecs.url };
  const sourceNow = async (request: Partial<CredentialsRequest> = {}) => (await find(request, caller)).source;

  expect(await sourceNow({ awsCredsUri: '/v2/option' })).toBe('ecs:/v2/option');
  expect(await sourceNow({ awsProfile: 'named' })).toBe('credentials:named');
  expect(await sourceNow()).toBe('credentials:named');
  environment['AWS_PROFILE'] = '';
  expect(await sourceNow()).toBe('credentials:default');
  caller.home = '/nonexistent';
  expect(await sourceNow()).toBe('ecs:/v2/relative');
  delete environment['AWS_CONTAINER_CREDENTIALS_RELATIVE_URI'];
  expect(await sourceNow()).toBe(`podidentity:${pod.url}/v1/credentials`);
  expect(sts.asked).toHaveLength(0);
  delete environment['AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE'];
  expect(await sourceNow()).toBe('webidentity:arn:aws:iam::123456789012:role/web-role');
  expect(metadata.asked).toHaveLength(0);
  delete environment['AWS_ROLE_ARN'];
  expect(await sourceNow()).toBe('metadata:app-role');

  expect(ecs.asked.map(({ path }) => path)).toEqual(['/v2/option', '/v2/relative']);
  expect(pod.asked).toMatchObject([{ path: '/v1/credentials', headers: { authorization: 'the-token' } }]);
  expect(new URLSearchParams(sts.asked[0]!.body).get('RoleSessionName')).toBe('efs-mount-helper');
  expect(new URLSearchParams(sts.asked[0]!.body).get('WebIdentityToken')).toBe('the-token');
  expect(sts.asked[0]!.path).not.toContain('the-token');
});

test.each([
  ['awscredsuri', { awsCredsUri: '/v2/option' }, {}],
  ['awsprofile', { awsProfile: 'missing' }, {}],
  ['AWS_PROFILE', {}, { AWS_PROFILE: 'missing' }],
] as const)('a source named by %s is the only one tried', async (_, request, change) => {
  const { metadata, home, environment } = await startEverything();

  const error = await failureOf(request, {
    home,
    environment: { ...environment, ...change },
    metadataEndpoint: metadata.url,
  });

  expect(error.code).toMatch(/^credentials\.(failed|profile-missing)$/);
  expect(metadata.asked).toHaveLength(0);
});

test('the instance role is read by IMDSv2 and its owner is the role', async () => {
  const metadata = await startMetadata();

  const found = await find({}, { metadataEndpoint: metadata.url });

  expect(found).toMatchObject({
    keys: { accessKeyId: 'ASIAFROMMETADATA' },
    owner: { kind: 'instance-role', role: 'app-role' },
  });
  expect(metadata.asked.map(({ method }) => method)).toEqual(['PUT', 'GET', 'GET']);
});

test.each(['42', 'true', '{"a":1}', 'a+b=c,d.e@f-g'])('a role named %s is read as a name', async (role) => {
  const path = `/latest/meta-data/iam/security-credentials/${encodeURIComponent(role)}`;
  const metadata = await startMetadata({
    '/latest/meta-data/iam/security-credentials/': `${role}\n`,
    [path]: keysJson('ASIAODD'),
  });

  expect((await find({}, { metadataEndpoint: metadata.url })).source).toBe(`metadata:${role}`);
});

test('a chain without credentials names every source and why it had none, with the words of the reference', async () => {
  const metadata = await startMetadata({ '/latest/meta-data/iam/security-credentials/': 404 });

  const error = await failureOf({}, { home: '/root-home', metadataEndpoint: metadata.url });

  expect(error.code).toBe('credentials.missing');
  expect(error.message).toContain(
    'AWS Access Key ID and Secret Access Key are not found in AWS credentials file',
  );
  expect(error.message).toContain(
    'from ECS credentials relative uri, or from the instance security credentials service',
  );
  expect(error.message).toContain('/root-home/.aws/credentials');
  for (const phrase of [
    'ECS: AWS_CONTAINER_CREDENTIALS_RELATIVE_URI not set',
    'EKS pod identity: AWS_CONTAINER_CREDENTIALS_FULL_URI and AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE not set',
    'web identity: AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE not set',
    'instance role: no role is attached to this instance',
  ]) {
    expect(error.message).toContain(phrase);
  }
});

test('a silent metadata service is given up within about three seconds and named', async () => {
  const metadataEndpoint = await startSilentEndpoint();
  const startedMs = performance.now();

  const error = await failureOf({}, { metadataEndpoint });

  expect(performance.now() - startedMs).toBeLessThan(3_500);
  expect(error.code).toBe('credentials.metadata-silent');
  expect(error.message).toContain(`instance metadata at ${metadataEndpoint}: no answer within 1000 ms`);
});

test('a metadata service that goes silent after the token is given up within about three seconds', async () => {
  const metadata = await startEndpoint(({ method }, response) => {
    if (method === 'PUT') response.end('session-token');
  });
  const startedMs = performance.now();

  const error = await failureOf({}, { metadataEndpoint: metadata.url });

  expect(performance.now() - startedMs).toBeLessThan(3_500);
  expect(error.code).toBe('credentials.metadata-silent');
});

test('a metadata service that is busy once is asked again', async () => {
  let isBusy = true;
  const role = '/latest/meta-data/iam/security-credentials/app-role';
  const metadata = await startEndpoint(({ path }, response) => {
    if (path === role && isBusy) {
      isBusy = false;
      response.writeHead(503).end();
    } else response.end(path === role ? keysJson('ASIABUSY') : 'app-role');
  });

  expect((await find({}, { metadataEndpoint: metadata.url })).keys.accessKeyId).toBe('ASIABUSY');
});

const rolePath = '/latest/meta-data/iam/security-credentials/app-role';
test.each([
  ['status 500', { [rolePath]: 500 }, 'credentials.failed', 'HTTP status 500'],
  [
    'garbage',
    { [rolePath]: `{"SecretAccessKey": "${plantedSecret}` },
    'credentials.failed',
    'no JSON object',
  ],
  [
    'no token in the answer',
    { [rolePath]: '{"AccessKeyId":"A","SecretAccessKey":"S"}' },
    'credentials.failed',
    'lacks',
  ],
  ['expired keys', { [rolePath]: keysJson('A', Date.now() - 1_000) }, 'credentials.failed', 'expired at'],
  [
    'a role it may not assume',
    { [rolePath]: '{"Code":"AssumeRoleUnauthorizedAccess"}' },
    'credentials.rejected',
    'AssumeRoleUnauthorizedAccess',
  ],
  ['a forbidden token', { '/latest/api/token': 403 }, 'credentials.failed', 'HTTP status 403'],
  [
    'a token of two lines',
    { '/latest/api/token': 'a\r\nb: c' },
    'credentials.failed',
    'unusable session token',
  ],
])('a metadata service that answers with %s is named, without its answer', async (_, paths, code, phrase) => {
  const metadata = await startMetadata(paths);

  const error = await failureOf({}, { metadataEndpoint: metadata.url });

  expect(error).toMatchObject({ code, message: expect.stringContaining(phrase) });
});

test.each([
  ['status 500', (): string | number => 500, 'HTTP status 500'],
  ['garbage', () => `{"Token": "${plantedSecret}`, 'no JSON object'],
  ['missing fields', () => `{"Token": "${plantedSecret}"}`, 'lacks AccessKeyId'],
  ['expired keys', () => keysJson('A', 0), 'expired at 1970-01-01T00:00:00.000Z'],
])(
  'awscredsuri that is answered with %s fails with the address and the reason',
  async (_, answer, phrase) => {
    const ecs = await startEndpoint((_asked, response) => {
      const body = answer();
      if (typeof body === 'string') response.end(body);
      else response.writeHead(body).end(plantedSecret);
    });

    const error = await failureOf({ awsCredsUri: '/v2/option' }, { containerEndpoint: ecs.url });

    expect(error.code).toBe('credentials.failed');
    expect(error.message).toContain(
      `Unsuccessful retrieval of AWS security credentials at ${ecs.url}/v2/option`,
    );
    expect(error.message).toContain(phrase);
  },
);

test.each(['@evil.example/x', '.evil.example/', ':1/', 'x', ''])(
  'awscredsuri %j asks no other host',
  async (awsCredsUri) => {
    const ecs = await serveKeys('ASIAECS');

    const error = await failureOf({ awsCredsUri }, { containerEndpoint: ecs.url });

    expect(error).toMatchObject({
      code: 'credentials.failed',
      message: expect.stringContaining('path that starts with /'),
    });
    expect(ecs.asked).toHaveLength(0);
  },
);

test.each([
  ['missing', null, 'ENOENT'],
  ['empty', '\n', 'is empty'],
  ['of two lines', `${plantedSecret}\r\nX-Evil: 1\n`, 'line end inside'],
  ['not ASCII', `${plantedSecret}é`, 'printable ASCII'],
])('a pod identity token file that is %s is named and its content is not', async (_, content, phrase) => {
  const pod = await serveKeys('ASIAPOD');
  const home = makeHome(content === null ? {} : { token: content });
  const tokenPath = join(home, '.aws/token');
  const environment = {
    AWS_CONTAINER_CREDENTIALS_FULL_URI: pod.url,
    AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: tokenPath,
  };

  const error = await failureOf({}, { environment });

  expect(error.code).toBe('credentials.rejected');
  expect(error.message).toContain(tokenPath);
  expect(error.message).toContain(phrase);
  expect(pod.asked).toHaveLength(0);
});

test('a pod identity address in clear text on another host gets no token', async () => {
  const environment = {
    AWS_CONTAINER_CREDENTIALS_FULL_URI: `http://user:${plantedSecret}@credentials.example/?t=${plantedSecret}`,
    AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: join(makeHome({ token: 't' }), '.aws/token'),
  };

  expect((await failureOf({}, { environment })).message).toContain(
    'AWS_CONTAINER_CREDENTIALS_FULL_URI must be https',
  );
});

test.each(['AccessDenied', 'ExpiredTokenException', 'InvalidIdentityToken'])(
  'web identity refused with %s names the error code of STS',
  async (code) => {
    const sts = await startSts(code);
    const environment = {
      AWS_ROLE_ARN: 'arn:aws:iam::123456789012:role/web-role',
      AWS_WEB_IDENTITY_TOKEN_FILE: join(makeHome({ token: plantedSecret }), '.aws/token'),
      AWS_ENDPOINT_URL_STS: sts.url,
    };

    const error = await failureOf({}, { environment });

    expect(error).toMatchObject({ code: 'credentials.rejected', message: expect.stringContaining(code) });
  },
);

test('web identity without an answer of STS is told apart from a refusal', async () => {
  const garbage = await startEndpoint((_, response) => response.end(`<not-xml ${plantedSecret}`));
  const home = makeHome({ token: plantedSecret });
  for (const url of [closed, garbage.url]) {
    const environment = {
      AWS_ROLE_ARN: 'arn:aws:iam::123456789012:role/web-role',
      AWS_WEB_IDENTITY_TOKEN_FILE: join(home, '.aws/token'),
      AWS_ENDPOINT_URL_STS: url,
    };

    const error = await failureOf({}, { environment });

    expect(error).toMatchObject({
      code: 'credentials.failed',
      message: expect.stringContaining(`STS at ${new URL(url).host}`),
    });
  }
});

test('a missing profile and one without a secret name the profile and the files, in the words of the reference', async () => {
  const home = makeHome({ config: `[profile half]\naws_access_key_id = ${plantedSecret}\n` });

  for (const awsProfile of ['half', 'none']) {
    const error = await failureOf({ awsProfile }, { home });

    expect(error.code).toBe('credentials.profile-missing');
    expect(error.message).toContain(
      `AWS security credentials not found in ${home}/.aws/credentials or ${home}/.aws/config`,
    );
    expect(error.message).toContain(`under named profile [${awsProfile}]`);
  }
});

test('a default profile with an access key and no secret is an error, not a reason to take the instance role', async () => {
  const metadata = await startMetadata();
  const home = makeHome({ credentials: '[default]\naws_access_key_id = AKIAHALF\n' });

  const error = await failureOf({}, { home, metadataEndpoint: metadata.url });

  expect(error).toMatchObject({
    code: 'credentials.profile-missing',
    message: expect.stringContaining('[default]'),
  });
  expect(metadata.asked).toHaveLength(0);
});

test('a silent ECS endpoint is given up within about two seconds', async () => {
  const containerEndpoint = await startSilentEndpoint();
  const startedMs = performance.now();

  const error = await failureOf({ awsCredsUri: '/v2/option' }, { containerEndpoint });

  expect(performance.now() - startedMs).toBeLessThan(3_500);
  expect(error).toMatchObject({
    code: 'credentials.failed',
    message: expect.stringContaining('no answer within 1000 ms'),
  });
});

test.each<[string, (socket: Socket) => void, string]>([
  ['is no HTTP', (socket: Socket) => void socket.end(`${plantedSecret}\r\n\r\n`), 'no answer: HPE_'],
  ['is a reset', (socket: Socket) => void socket.resetAndDestroy(), 'no answer: ECONNRESET'],
  [
    'ends in the middle',
    (socket: Socket) => void socket.end('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{'),
    'no answer: ECONNRESET',
  ],
])('an answer that %s is named', async (_, answer, phrase) => {
  const containerEndpoint = await startRawEndpoint(answer);

  const error = await failureOf({ awsCredsUri: '/v2/option' }, { containerEndpoint });

  expect(error).toMatchObject({ code: 'credentials.failed', message: expect.stringContaining(phrase) });
});

test('an endless answer is cut off', async () => {
  const ecs = await startEndpoint((_, response) => {
    response.on('drain', () => response.write('x'.repeat(65_536)));
    response.write('x'.repeat(1_000_000));
  });

  const error = await failureOf({ awsCredsUri: '/v2/option' }, { containerEndpoint: ecs.url });

  expect(error.message).toContain('the answer is too long');
});

test('a credentials file that cannot be read is named', async () => {
  const home = makeHome();
  mkdirSync(join(home, '.aws/credentials'));
  writeFileSync(join(home, '.aws/config'), '');

  const error = await failureOf({}, { home });

  expect(error).toMatchObject({
    code: 'credentials.failed',
    message: `cannot read ${home}/.aws/credentials: EISDIR`,
  });
});

test('the place of the instance is read from its identity document', async () => {
  const metadata = await startMetadata();

  expect(await readInstance(metadata.url)).toEqual({
    region: 'eu-central-1',
    availabilityZone: 'eu-central-1b',
    instanceId: 'i-0123456789abcdef0',
    accountId: '123456789012',
  });
});

test('the identity of the instance role is the assumed role with the instance as session', async () => {
  const metadata = await startMetadata();

  expect(await readRoleArn(metadata.url, 'app-role')).toBe(
    'arn:aws:sts::123456789012:assumed-role/app-role/i-0123456789abcdef0',
  );
});

test.each([
  ['nothing listens', null],
  ['the document is garbage', { '/latest/dynamic/instance-identity/document': `"${plantedSecret}` }],
  ['the document lacks the region', { '/latest/dynamic/instance-identity/document': '{}' }],
  ['the document is missing', { '/latest/dynamic/instance-identity/document': 404 }],
])('the place of the instance is unavailable when %s', async (_, paths) => {
  const endpoint = paths === null ? closed : (await startMetadata(paths)).url;

  const failed = readInstance(endpoint);

  await expect(failed).rejects.toMatchObject({
    code: 'metadata.unavailable',
    message: expect.not.stringContaining(plantedSecret),
  });
});
