import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { runCommandLine } from '../../src/cli/command-line.ts';
import { type HelperStage, openHelperStage } from '../helper/stage.ts';

const program = resolve(import.meta.dirname, '../../dist/efs-agent.mjs');

/** Made for this test; each is planted where such a thing can be found on a real machine. */
const secrets = {
  environmentKey: 'plantedENV/k3y+wJalrXUtnFEMIK7MDENGbPxRf',
  environmentToken: `plantedSESSION${'Zx9+/'.repeat(40)}==`,
  fileKey: 'plantedFILEk3y/bPxRfiCYEXAMPLEKEY+wJalrX',
  fileToken: 'planted-file-token-0123456789',
  webToken: 'eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.cGxhbnRlZC1zaWduYXR1cmU',
  containerToken: 'planted container token with spaces',
  proxyPassword: 'planted-proxy-pass',
  logSignature: 'planted0signature0of0a0signed0url',
  stateKey: 'plantedSTATEk3yQrStUvWxYz0123456789abcdE',
  journalKey: 'MIIEplantedprivatekeybody',
};

let stage: HelperStage;
let environment: Record<string, string>;
beforeEach(() => {
  stage = openHelperStage();
  for (const directory of ['.aws', 'bin', 'run/mounts'])
    mkdirSync(join(stage.directory, directory), { recursive: true });
  const path = (name: string) => join(stage.directory, name);
  stage.write(
    '.aws/credentials',
    `[default]\naws_access_key_id = AKIAPLANTED\naws_secret_access_key = ${secrets.fileKey}\naws_session_token = ${secrets.fileToken}\n`,
  );
  stage.write('web-token', `${secrets.webToken}\n`);
  stage.write('container-token', secrets.containerToken);
  stage.write(
    'efs-utils.conf',
    `[mount]\nregion = us-east-1\n# ${secrets.fileKey}\n[proxy]\nhttps_proxy = http://me:${secrets.proxyPassword}@proxy:3128\npassword = ${secrets.proxyPassword}\n[agent]\nmetadata_endpoint = http://127.0.0.1:9\n`,
  );
  stage.write(
    'run/agent.log',
    `2026-11-25 info tunnel.opened path=/mnt\nGET /?X-Amz-Signature=${secrets.logSignature}&x=1\nkey ${secrets.environmentKey} ${encodeURIComponent(secrets.environmentKey)} ${btoa(secrets.fileKey)}\n${secrets.containerToken}\n`,
  );
  stage.write(
    'run/mounts/fs-0123.json',
    JSON.stringify({ environment: { AWS_SECRET_ACCESS_KEY: secrets.stateKey, AWS_REGION: 'us-east-1' } }),
  );
  stage.write(
    'bin/journalctl',
    `#!/bin/sh\nprintf '%s\\n' 'agent.ready version=0.1.0' '-----BEGIN PRIVATE KEY-----' '${secrets.journalKey}' '-----END PRIVATE KEY-----' '${secrets.environmentToken}'\n`,
  );
  chmodSync(path('bin/journalctl'), 0o755);
  environment = {
    PATH: `${path('bin')}:${process.env['PATH']}`,
    HOME: stage.directory,
    EFS_AGENT_RUNTIME_DIR: path('run'),
    EFS_AGENT_CONFIG: path('efs-utils.conf'),
    AWS_ACCESS_KEY_ID: 'AKIAPLANTED',
    AWS_SECRET_ACCESS_KEY: secrets.environmentKey,
    AWS_SESSION_TOKEN: secrets.environmentToken,
    AWS_WEB_IDENTITY_TOKEN_FILE: path('web-token'),
    AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: path('container-token'),
    SOME_PASSWORD: secrets.proxyPassword,
  };
});
afterEach(() => stage.close());

test('the archive of a machine full of secrets has what helps and not one of them', () => {
  const file = join(stage.directory, 'support.tar.gz');

  const ended = spawnSync(process.execPath, [program, 'bundle', '-o', file], {
    encoding: 'utf8',
    env: environment,
  });

  expect(ended).toMatchObject({ status: 0, stdout: `${file}\n`, stderr: '' });
  expect(statSync(file).mode & 0o777).toBe(0o600);
  const bytes = readFileSync(file);
  const plain = gunzipSync(bytes);
  for (const [name, secret] of Object.entries(secrets)) {
    for (const written of [
      secret,
      encodeURIComponent(secret),
      btoa(secret),
      btoa(secret).replace(/=+$/, ''),
    ]) {
      expect(plain.includes(written), `${name}, as ${written}`).toBe(false);
      expect(bytes.includes(written), `${name}, as ${written}`).toBe(false);
    }
  }
  const listing = spawnSync('tar', ['-tzf', file], { encoding: 'utf8' }).stdout;
  for (const name of [
    'README',
    'status.json',
    'doctor.json',
    'config.json',
    'records.json',
    'versions.json',
    'journal.txt',
  ])
    expect(listing).toMatch(new RegExp(`/${name.replace('.', '\\.')}$`, 'm'));
  for (const told of [
    'agent.ready version=0.1.0',
    'tunnel.opened path=/mnt',
    'AWS_SESSION_TOKEN',
    'us-east-1',
    '"kernel-client"',
  ])
    expect(plain.includes(told), told).toBe(true);
  expect(plain.includes('[removed]')).toBe(true);
});

test('every JSON file of the archive can be read', () => {
  const file = join(stage.directory, 'support.tar.gz');
  spawnSync(process.execPath, [program, 'bundle', '-o', file], { env: environment });
  spawnSync('tar', ['-xzf', file, '--strip-components=1', '-C', stage.directory]);

  for (const name of [
    'status',
    'doctor',
    'config',
    'records',
    'versions',
    'environment',
    'mounts',
    'network',
  ])
    expect(() => JSON.parse(readFileSync(join(stage.directory, `${name}.json`), 'utf8')), name).not.toThrow();
});

test('a file that is there is not overwritten', async () => {
  stage.write('there', 'mine');
  const caller = stage.caller({ program: 'efs-agent', environment });

  expect(await runCommandLine(['bundle', '-o', 'there'], caller)).toBe(2);

  expect(caller.error).toBe(
    `efs-agent: cannot write ${join(stage.directory, 'there')}: EEXIST [bundle.failed]\n  Name another file with -o.\n`,
  );
  expect(readFileSync(join(stage.directory, 'there'), 'utf8')).toBe('mine');
});

test('a tar that fails leaves no half archive', async () => {
  stage.write('bin/tar', '#!/bin/sh\necho "tar: no space left" >&2; exit 2\n');
  chmodSync(join(stage.directory, 'bin/tar'), 0o755);
  const caller = stage.caller({ program: 'efs-agent', environment });

  expect(await runCommandLine(['bundle', '-o', 'half'], caller)).toBe(2);

  expect(caller.error).toContain('tar: no space left [bundle.failed]');
  expect(existsSync(join(stage.directory, 'half'))).toBe(false);
});
