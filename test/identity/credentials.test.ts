import { mkdirSync, readdirSync, readlinkSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { AgentError } from '../../src/core/errors.ts';
import type { CredentialsRequest } from '../../src/core/identity-protocol.ts';
import { forgetSecrets } from '../../src/core/secret-environment.ts';
import { type CallerContext, findCredentials } from '../../src/identity/credentials.ts';
import { locateMetadata, readInstance, readRoleArn, readZoneId } from '../../src/identity/metadata.ts';
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

const unnamed: CredentialsRequest = {
  awsProfile: null,
  awsCredsUri: null,
  roleArn: null,
  jwtPath: null,
};

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

interface Scene {
  request: Partial<CredentialsRequest>;
  caller: CallerContext;
  everything: Awaited<ReturnType<typeof startEverything>>;
}

/** Every source in the order in which they are asked: how to offer it, and the name of what it gives. */
const sources: { title: string; named: boolean; offer: (scene: Scene) => void; gives: string }[] = [
  {
    title: 'awscredsuri',
    named: true,
    offer: ({ request }) => Object.assign(request, { awsCredsUri: '/v2/option' }),
    gives: 'ecs:/v2/option',
  },
  {
    title: 'rolearn with jwtpath',
    named: true,
    offer: ({ request, everything }) =>
      Object.assign(request, {
        roleArn: 'arn:aws:iam::123456789012:role/named',
        jwtPath: everything.tokenPath,
      }),
    gives: 'webidentity:arn:aws:iam::123456789012:role/named',
  },
  {
    title: 'awsprofile',
    named: true,
    offer: ({ request }) => Object.assign(request, { awsProfile: 'named' }),
    gives: 'credentials:named',
  },
  {
    title: 'AWS_PROFILE',
    named: true,
    offer: ({ caller }) => Object.assign(caller.environment, { AWS_PROFILE: 'other' }),
    gives: 'credentials:other',
  },
  {
    title: 'the keys of the environment',
    named: true,
    offer: ({ caller }) =>
      Object.assign(caller.environment, {
        AWS_ACCESS_KEY_ID: 'AKIAENV',
        AWS_SECRET_ACCESS_KEY: plantedSecret,
      }),
    gives: 'environment',
  },
  {
    title: 'the default profile',
    named: true,
    offer: ({ caller, everything }) =>
      Object.assign(caller.environment, { AWS_CONFIG_FILE: join(everything.home, '.aws/default') }),
    gives: 'config:default',
  },
  {
    title: 'ECS',
    named: false,
    offer: ({ caller }) =>
      Object.assign(caller.environment, { AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: '/v2/relative' }),
    gives: 'ecs:/v2/relative',
  },
  {
    title: 'pod identity',
    named: false,
    offer: ({ caller, everything }) =>
      Object.assign(caller.environment, {
        AWS_CONTAINER_CREDENTIALS_FULL_URI: `${everything.pod.url}/v1/credentials`,
        AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: everything.tokenPath,
      }),
    gives: 'podidentity:',
  },
  {
    title: 'web identity',
    named: false,
    offer: ({ caller, everything }) =>
      Object.assign(caller.environment, {
        AWS_ROLE_ARN: 'arn:aws:iam::123456789012:role/web-role',
        AWS_WEB_IDENTITY_TOKEN_FILE: everything.tokenPath,
      }),
    gives: 'webidentity:arn:aws:iam::123456789012:role/web-role',
  },
  {
    title: 'the instance role',
    named: false,
    offer: ({ caller, everything }) => Object.assign(caller, { metadataEndpoint: everything.metadata.url }),
    gives: 'metadata:app-role',
  },
];

async function offer(...offered: typeof sources) {
  const everything = await startEverything();
  const environment: Record<string, string> = { AWS_ENDPOINT_URL_STS: everything.sts.url };
  const { home, ecs } = everything;
  const caller = { environment, home, metadataEndpoint: closed, containerEndpoint: ecs.url };
  const scene: Scene = { request: {}, caller, everything };
  for (const source of offered) source.offer(scene);
  return scene;
}

function askedOf({ metadata, ecs, pod, sts }: Scene['everything']) {
  return [metadata, ecs, pod, sts].flatMap(({ asked }) => asked);
}

/** Every source is there, each with keys of its own name. */
async function startEverything() {
  const [metadata, ecs, pod, sts] = await Promise.all([
    startMetadata(),
    serveKeys('ASIAECS'),
    serveKeys('ASIAPOD'),
    startSts(),
  ]);
  const keys = (id: string) => `aws_access_key_id = ${id}\naws_secret_access_key = s\n`;
  const home = makeHome({
    credentials: `[named]\n${keys('AKIANAMED')}[other]\n${keys('AKIAOTHER')}`,
    default: `[default]\n${keys('AKIADEFAULT')}`,
    token: 'the-token\n',
  });
  return { metadata, ecs, pod, sts, home, tokenPath: join(home, '.aws/token') };
}

const pairs = sources.flatMap((earlier, index) =>
  sources
    .slice(index + 1)
    .map((later): [string, string, typeof earlier, typeof later] => [
      earlier.title,
      later.title,
      earlier,
      later,
    ]),
);

test.each(pairs)('%s comes before %s, which is not asked', async (_, __, earlier, later) => {
  const { request, caller, everything } = await offer(earlier, later);
  const alone = await offer(earlier);

  const found = await find(request, caller);

  expect(found.source).toContain(earlier.gives);
  await find(alone.request, alone.caller);
  expect(askedOf(everything)).toHaveLength(askedOf(alone.everything).length);
});

test.each(sources.map((source) => [source.title, source] as const))(
  '%s alone gives credentials',
  async (_, source) => {
    const { request, caller } = await offer(source);

    expect((await find(request, caller)).source).toContain(source.gives);
  },
);

const breakages: Record<string, (scene: Scene) => void> = {
  awscredsuri: ({ caller }) => Object.assign(caller, { containerEndpoint: closed }),
  'rolearn with jwtpath': ({ everything }) => rmSync(everything.tokenPath),
  awsprofile: ({ everything }) => rmSync(join(everything.home, '.aws/credentials')),
  AWS_PROFILE: ({ everything }) => rmSync(join(everything.home, '.aws/credentials')),
  'the keys of the environment': ({ caller }) =>
    Object.assign(caller.environment, { AWS_SECRET_ACCESS_KEY: '' }),
  'the default profile': ({ everything }) =>
    writeFileSync(join(everything.home, '.aws/default'), '[default]\naws_access_key_id = AKIAHALF\n'),
};

test.each(pairs.filter(([, , earlier]) => earlier.named))(
  '%s that fails is the only source tried: %s is not asked',
  async (title, __, earlier, later) => {
    const scene = await offer(earlier, later);
    breakages[title]!(scene);

    const error = await failureOf(scene.request, scene.caller);

    expect(error.code).toMatch(/^credentials\./);
    expect(askedOf(scene.everything)).toHaveLength(0);
  },
);

test.each(
  sources
    .filter(({ named, title }) => !named && title !== 'the instance role')
    .map((source) => [source.title, source] as const),
)('%s that is set and fails keeps the instance role out, and the message says so', async (_, source) => {
  const scene = await offer(source, sources.at(-1)!);
  const { caller, everything } = scene;
  Object.assign(caller, { containerEndpoint: closed });
  rmSync(everything.tokenPath);

  const error = await failureOf(scene.request, caller);

  expect(error.message).toContain('instance role: not asked, because a source that is set failed');
  expect(everything.metadata.asked).toHaveLength(0);
});

test('of the sources whose variables are set, the next is asked when one fails', async () => {
  const [ecs, pod] = sources.filter(({ title }) => ['ECS', 'pod identity'].includes(title));
  const { request, caller } = await offer(ecs!, pod!);
  Object.assign(caller, { containerEndpoint: closed });

  expect((await find(request, caller)).source).toContain('podidentity:');
});

test('the web identity token goes to STS in the body, with the session name of the reference, never in the address', async () => {
  const { request, caller, everything } = await offer(sources[1]!);

  await find(request, caller);

  const [asked] = everything.sts.asked;
  expect(new URLSearchParams(asked!.body).get('RoleSessionName')).toBe('efs-mount-helper');
  expect(new URLSearchParams(asked!.body).get('WebIdentityToken')).toBe('the-token');
  expect(asked!.path).not.toContain('the-token');
});

test.each([{ roleArn: 'arn:aws:iam::123456789012:role/r' }, { jwtPath: '/token' }])(
  'half a pair of options is refused: %j',
  async (request) => {
    const metadata = await startMetadata();

    const error = await failureOf(request, { metadataEndpoint: metadata.url });

    expect(error.code).toBe('option.requires');
    expect(metadata.asked).toHaveLength(0);
  },
);

test.each([
  [{ AWS_ACCESS_KEY_ID: 'AKIA' }, 'AWS_SECRET_ACCESS_KEY is not'],
  [{ AWS_SECRET_ACCESS_KEY: plantedSecret }, 'AWS_ACCESS_KEY_ID is not'],
  [forgetSecrets({ AWS_ACCESS_KEY_ID: 'AKIA', AWS_SECRET_ACCESS_KEY: plantedSecret }), 'kept in memory only'],
])('keys of the environment that are not whole are an error: %j', async (environment, phrase) => {
  const metadata = await startMetadata();

  const error = await failureOf({}, { environment, metadataEndpoint: metadata.url });

  expect(error).toMatchObject({ code: 'credentials.failed', message: expect.stringContaining(phrase) });
  expect(metadata.asked).toHaveLength(0);
});

test('keys of the environment may have a session token', async () => {
  const environment = { AWS_ACCESS_KEY_ID: 'ASIA', AWS_SECRET_ACCESS_KEY: 's', AWS_SESSION_TOKEN: 't' };

  expect(await find({}, { environment })).toMatchObject({
    keys: { accessKeyId: 'ASIA', secretAccessKey: 's', sessionToken: 't', expiresAtMs: null },
  });
});

test('AWS_SHARED_CREDENTIALS_FILE and AWS_CONFIG_FILE name the files that are read instead, also below the home directory', async () => {
  const home = makeHome({
    credentials: '[p]\naws_access_key_id = AKIAUSUAL\naws_secret_access_key = s\n',
    mine: '[p]\naws_access_key_id = AKIAMINE\naws_secret_access_key = s\n',
    config2: '[profile q]\naws_access_key_id = AKIACONFIG\naws_secret_access_key = s\n',
  });
  const environment = {
    AWS_SHARED_CREDENTIALS_FILE: '~/.aws/mine',
    AWS_CONFIG_FILE: join(home, '.aws/config2'),
  };

  expect((await find({ awsProfile: 'p' }, { home, environment })).keys.accessKeyId).toBe('AKIAMINE');
  expect((await find({ awsProfile: 'q' }, { home, environment })).keys.accessKeyId).toBe('AKIACONFIG');
  const { message } = await failureOf({ awsProfile: 'none' }, { home, environment });
  expect(message).toContain(`${home}/.aws/mine or ${home}/.aws/config2 under named profile [none]`);
});

test('a web identity token that is rotated while STS is asked is read again', async () => {
  const home = makeHome({ token: 'old-token' });
  const tokenPath = join(home, '.aws/token');
  const sts = await startSts((asked) => {
    if (!asked.body.includes('old-token')) return null;
    writeFileSync(tokenPath, 'new-token');
    return 'ExpiredTokenException';
  });
  const environment = { AWS_ENDPOINT_URL_STS: sts.url };
  const request = { roleArn: 'arn:aws:iam::123456789012:role/r', jwtPath: tokenPath };

  expect((await find(request, { environment })).keys.accessKeyId).toBe('ASIAFROMSTS');
  expect(sts.asked).toHaveLength(2);
});

test('a pod identity token that is rotated while the agent is asked is read again', async () => {
  const home = makeHome({ token: 'old-token' });
  const tokenPath = join(home, '.aws/token');
  const pod = await startEndpoint(({ headers }, response) => {
    if (headers.authorization === 'new-token') return void response.end(keysJson('ASIAPOD'));
    writeFileSync(tokenPath, 'new-token');
    response.writeHead(401).end(plantedSecret);
  });
  const environment = {
    AWS_CONTAINER_CREDENTIALS_FULL_URI: pod.url,
    AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: tokenPath,
  };

  expect((await find({}, { environment })).keys.accessKeyId).toBe('ASIAPOD');
  expect(pod.asked).toHaveLength(2);
});

/** Whether this process has a file open just now. */
function isOpen(path: string): boolean {
  return readdirSync('/proc/self/fd').some((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`) === path;
    } catch {
      return false;
    }
  });
}

test('a credentials file that is replaced while it is read is read again', async () => {
  const half = '[p]\naws_access_key_id = AKIAOLD\n';
  const home = makeHome({
    // Long enough to be caught in the act.
    credentials: `${half}#${'x'.repeat(15 << 20)}\n`,
    whole: '[p]\naws_access_key_id = AKIANEW\naws_secret_access_key = new\n',
  });
  const path = join(home, '.aws/credentials');

  const found = find({ awsProfile: 'p' }, { home });
  while (!isOpen(path)) await nextTurn();
  renameSync(join(home, '.aws/whole'), path);

  expect((await found).keys).toMatchObject({ accessKeyId: 'AKIANEW', secretAccessKey: 'new' });
});

test('the metadata service is asked over IPv6 when the endpoint is an IPv6 address', async () => {
  const metadata = await startMetadata({}, '::1');

  expect(metadata.url).toMatch(/^http:\/\/\[::1\]:/);
  expect((await find({}, { metadataEndpoint: metadata.url })).source).toBe('metadata:app-role');
});

test.each([
  [{}, 'http://169.254.169.254'],
  [{ AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE: 'IPv4' }, 'http://169.254.169.254'],
  [{ AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE: 'IPv6' }, 'http://[fd00:ec2::254]'],
  [
    { AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE: 'ipv6', AWS_EC2_METADATA_SERVICE_ENDPOINT: 'http://[::1]:1' },
    'http://[::1]:1',
  ],
])('with %j instance metadata is at %s', (environment, expected) => {
  expect(locateMetadata(environment, null)).toBe(expected);
});

test('the address that the configuration names counts before that of the environment, and AWS_EC2_METADATA_DISABLED before both', () => {
  const environment = { AWS_EC2_METADATA_SERVICE_ENDPOINT: 'http://[::1]:1' };

  expect(locateMetadata(environment, 'http://[::1]:2')).toBe('http://[::1]:2');
  expect(locateMetadata({ ...environment, AWS_EC2_METADATA_DISABLED: 'True' }, 'http://[::1]:2')).toBeNull();
  expect(locateMetadata({ ...environment, AWS_EC2_METADATA_DISABLED: 'false' }, null)).toBe('http://[::1]:1');
});

test('where metadata is not to be asked, neither keys nor facts come from there, and the error says why', async () => {
  const error = await failureOf({}, { metadataEndpoint: null });

  expect(error).toMatchObject({
    code: 'credentials.missing',
    message: expect.stringContaining('instance role: not asked, because AWS_EC2_METADATA_DISABLED is true'),
  });
  for (const asked of [readInstance(null), readZoneId(null), readRoleArn(null, 'role')])
    await expect(asked).rejects.toMatchObject({
      code: 'metadata.unavailable',
      message: expect.stringContaining('AWS_EC2_METADATA_DISABLED'),
    });
});

test.each([
  [{ AWS_CONTAINER_CREDENTIALS_FULL_URI: 'http://127.0.0.1/v1' }, 'AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE'],
  [{ AWS_WEB_IDENTITY_TOKEN_FILE: '/token' }, 'AWS_ROLE_ARN'],
])(
  'half a source of the environment is no reason to take the instance role: %j',
  async (environment, missing) => {
    const metadata = await startMetadata();

    const error = await failureOf({}, { environment, metadataEndpoint: metadata.url });

    expect(error).toMatchObject({
      code: 'credentials.failed',
      message: expect.stringContaining(`${Object.keys(environment)[0]} is set and ${missing} is not`),
    });
    expect(metadata.asked).toHaveLength(0);
  },
);

test('a role in the environment without a token names no source', async () => {
  const metadata = await startMetadata();
  const environment = { AWS_ROLE_ARN: 'arn:aws:iam::123456789012:role/deploy' };

  expect((await find({}, { environment, metadataEndpoint: metadata.url })).source).toBe('metadata:app-role');
});

test('the id of the zone is read, and one that is none is refused', async () => {
  const path = '/latest/meta-data/placement/availability-zone-id';
  const metadata = await startMetadata({ [path]: 'euc1-az2\n' });
  const odd = await startMetadata({ [path]: `<html>${plantedSecret}` });

  expect(await readZoneId(metadata.url)).toBe('euc1-az2');
  await expect(readZoneId(odd.url)).rejects.toMatchObject({
    code: 'metadata.unavailable',
    message: expect.not.stringContaining(plantedSecret),
  });
});

test('where metadata is silent, the hint speaks of the hop limit', async () => {
  const failed = readInstance(await startSilentEndpoint());

  await expect(failed).rejects.toMatchObject({ details: { hint: expect.stringContaining('hop limit') } });
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

test('a silent metadata service is given up within seconds and named', async () => {
  const metadataEndpoint = await startSilentEndpoint();
  const startedMs = performance.now();

  const error = await failureOf({}, { metadataEndpoint });

  expect(performance.now() - startedMs).toBeLessThan(15_000);
  expect(error.code).toBe('credentials.metadata-silent');
  expect(error.message).toContain(`instance metadata at ${metadataEndpoint}: no answer within 3000 ms`);
});

test('a metadata service that goes silent after the token is given up within seconds', async () => {
  const metadata = await startEndpoint(({ method }, response) => {
    if (method === 'PUT') response.end('session-token');
  });
  const startedMs = performance.now();

  const error = await failureOf({}, { metadataEndpoint: metadata.url });

  expect(performance.now() - startedMs).toBeLessThan(15_000);
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

test('a silent ECS endpoint is given up within seconds', async () => {
  const containerEndpoint = await startSilentEndpoint();
  const startedMs = performance.now();

  const error = await failureOf({ awsCredsUri: '/v2/option' }, { containerEndpoint });

  expect(performance.now() - startedMs).toBeLessThan(15_000);
  expect(error).toMatchObject({
    code: 'credentials.failed',
    message: expect.stringContaining('no answer within 3000 ms'),
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
    availabilityZoneId: null,
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
