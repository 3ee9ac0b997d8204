import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { readConfigFiles } from '../../src/host/config-files.ts';

const folder = mkdtempSync(join(tmpdir(), 'efs-agent-config-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('the configuration file that EFS_AGENT_CONFIG names is read, with its path', async () => {
  const path = join(folder, 'efs-utils.conf');
  writeFileSync(path, '[mount]\nregion = eu-west-1\n');

  expect(await readConfigFiles({ EFS_AGENT_CONFIG: path })).toEqual([
    { path, text: '[mount]\nregion = eu-west-1\n' },
  ]);
});

test('a configuration file that was named and is missing is an error that names it', async () => {
  const path = join(folder, 'missing.conf');

  await expect(readConfigFiles({ EFS_AGENT_CONFIG: path })).rejects.toMatchObject({
    code: 'config.unreadable',
    message: expect.stringContaining(path),
    details: { path },
  });
});

test('a directory in the place of the configuration file is an error', async () => {
  await expect(readConfigFiles({ EFS_AGENT_CONFIG: folder })).rejects.toMatchObject({
    code: 'config.unreadable',
  });
});

test('drop-ins follow the file by name; what is not called .conf is none', async () => {
  const path = join(folder, 'main.conf');
  mkdirSync(`${path}.d`);
  writeFileSync(path, 'main');
  for (const name of ['20-b.conf', '10-a.conf', 'README', '.hidden.conf', '30-c.conf.rpmsave'])
    writeFileSync(join(`${path}.d`, name), name);

  const files = await readConfigFiles({ EFS_AGENT_CONFIG: path });

  expect(files.map(({ text }) => text)).toEqual(['main', '10-a.conf', '20-b.conf']);
  expect(files[1]!.path).toBe(join(`${path}.d`, '10-a.conf'));
});

test('a drop-in that cannot be read is an error that names it', async () => {
  const path = join(folder, 'other.conf');
  mkdirSync(join(`${path}.d`, 'x.conf'), { recursive: true });
  writeFileSync(path, '');

  await expect(readConfigFiles({ EFS_AGENT_CONFIG: path })).rejects.toMatchObject({
    code: 'config.unreadable',
    message: expect.stringContaining('x.conf'),
  });
});
