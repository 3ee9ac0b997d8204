import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { linkSync, mkdirSync, readFileSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, onTestFinished, test } from 'vitest';
import { readAgentPid, writeAgentPid } from '../../src/host/agent-pid.ts';
import { readConfigFiles } from '../../src/host/config-files.ts';
import { readRegularFile } from '../../src/host/regular-file.ts';
import { createRuntimeDir, readStateFiles, writeStateFile } from '../../src/host/runtime-dir.ts';
import { readTrustedRoots } from '../../src/host/trusted-roots.ts';
import { readProfileFiles } from '../../src/identity/profiles.ts';
import { withTokenFile } from '../../src/identity/token-file.ts';
import { createTemporaryDirectory } from '../support/temporary-directory.ts';

let directory: string;
beforeEach(() => {
  directory = createTemporaryDirectory();
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const makePipe = (path: string) => void spawnSync('mkfifo', [path]);

/** What may stand where a file should, and what is said of it. */
const things: [what: string, put: (path: string) => void | Promise<void>, why: string][] = [
  ['a pipe that nobody writes to', makePipe, 'not a regular file'],
  [
    'a link to such a pipe',
    (path) => {
      makePipe(`${path}.pipe`);
      symlinkSync(`${path}.pipe`, path);
    },
    'not a regular file',
  ],
  ['a device without an end', (path) => symlinkSync('/dev/zero', path), 'not a regular file'],
  ['a terminal', (path) => symlinkSync('/dev/ptmx', path), 'not a regular file'],
  [
    'a unix socket',
    async (path) => {
      const server = createServer().listen(path);
      onTestFinished(() => void server.close());
      await once(server, 'listening');
    },
    'not a regular file',
  ],
  ['a directory', (path) => mkdirSync(path), 'EISDIR'],
  ['a link to itself', (path) => symlinkSync(path, path), 'ELOOP'],
  [
    'a file of a TiB',
    (path) => {
      writeFileSync(path, '');
      truncateSync(path, 2 ** 40);
    },
    'larger than 16 MiB',
  ],
];

/** Everything that is read because somebody named it, and the error it ends with. */
const files: [what: string, read: (path: string) => Promise<unknown>, code: string][] = [
  ['the configuration', (path) => readConfigFiles({ EFS_AGENT_CONFIG: path }), 'config.unreadable'],
  [
    'a drop-in of the configuration',
    (path) => {
      const conf = join(directory, 'efs-utils.conf');
      writeFileSync(conf, '');
      mkdirSync(`${conf}.d`);
      symlinkSync(path, `${conf}.d/10.conf`);
      return readConfigFiles({ EFS_AGENT_CONFIG: conf });
    },
    'config.unreadable',
  ],
  ['the file of trusted roots', (path) => readTrustedRoots(path, true), 'ca-file.unreadable'],
  ['a token file', (path) => withTokenFile(path, async (token) => token), 'credentials.rejected'],
  [
    'the credentials file',
    (path) => readProfileFiles('/nonexistent', { AWS_SHARED_CREDENTIALS_FILE: path }),
    'credentials.failed',
  ],
  [
    'the AWS configuration',
    (path) => readProfileFiles('/nonexistent', { AWS_CONFIG_FILE: path }),
    'credentials.failed',
  ],
];

const pairs = things.flatMap(([what, put, why]) =>
  files.map(([file, read, code]) => ({ what, file, put, read, code, why })),
);

test.each(pairs)(
  '$what in place of $file is an error with a code, at once',
  async ({ put, read, code, why }) => {
    const path = join(directory, 'file');
    await put(path);

    await expect(read(path)).rejects.toMatchObject({ code, message: expect.stringContaining(why) });
  },
);

test.each(things)('%s in place of a record counts as a damaged one', async (_what, put) => {
  const run = join(directory, 'run');
  await createRuntimeDir(run);
  await writeStateFile(run, 'a', 'whole');
  rmSync(join(run, 'mounts', 'a.json'));
  await put(join(run, 'mounts', 'a.json'));

  const [recorded] = await readStateFiles(run);

  expect(recorded!.records.map(({ text }) => text)).toEqual([null, 'whole']);
});

test.each(things)('%s in place of the process id of the agent is none', async (_what, put) => {
  await put(join(directory, 'agent.pid'));

  expect(await readAgentPid(directory)).toBeNull();
});

test('the process id is written over whatever stood there, and into nothing that it was linked to', async () => {
  const victim = join(directory, 'victim');
  writeFileSync(victim, 'untouched');
  for (const put of [makePipe, (path: string) => symlinkSync(victim, path)]) {
    put(join(directory, 'agent.pid'));

    await writeAgentPid(directory);

    expect(readFileSync(join(directory, 'agent.pid'), 'utf8')).toBe(`${process.pid}\n`);
    rmSync(join(directory, 'agent.pid'));
  }
  expect(readFileSync(victim, 'utf8')).toBe('untouched');
});

test('a pipe in place of an unfinished record is an error, at once', async () => {
  const run = join(directory, 'run');
  await createRuntimeDir(run);
  makePipe(join(run, 'mounts', 'a.json.new'));

  await expect(writeStateFile(run, 'a', 'x')).rejects.toMatchObject({ code: 'runtime-dir.unusable' });
});

test('a file is read through links and under any of its names, and /dev/null is an empty one', async () => {
  const path = join(directory, 'file');
  writeFileSync(path, 'text');
  symlinkSync(path, join(directory, 'link'));
  linkSync(path, join(directory, 'other-name'));

  expect(
    await Promise.all(['file', 'link', 'other-name'].map((name) => readRegularFile(join(directory, name)))),
  ).toEqual(['text', 'text', 'text']);
  expect(await readRegularFile('/dev/null')).toBe('');
  expect(await readConfigFiles({ EFS_AGENT_CONFIG: '/dev/null' })).toEqual([{ path: '/dev/null', text: '' }]);
});
