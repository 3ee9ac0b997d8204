import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import {
  controlSocketPath,
  createRuntimeDir,
  readStateFiles,
  removeStateFile,
  removeUnfinishedStateFiles,
  runtimeDir,
  setAsideStateFile,
  writeStateFile,
} from '../../src/host/runtime-dir.ts';

const folder = mkdtempSync(join(tmpdir(), 'efs-agent-run-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function newRuntimeDir(): Promise<{ directory: string; mounts: string }> {
  const directory = join(mkdtempSync(join(folder, 'case-')), 'run');
  await createRuntimeDir(directory);
  return { directory, mounts: join(directory, 'mounts') };
}

test('the runtime directory is /run/efs-agent unless EFS_AGENT_RUNTIME_DIR names another', () => {
  expect(runtimeDir({})).toBe('/run/efs-agent');
  expect(runtimeDir({ EFS_AGENT_RUNTIME_DIR: '' })).toBe('/run/efs-agent');
  expect(runtimeDir({ EFS_AGENT_RUNTIME_DIR: '/run/other' })).toBe('/run/other');
  expect(controlSocketPath('/run/other')).toBe('/run/other/control.sock');
});

test('the directory of the state files is for root alone, and making it twice is fine', async () => {
  const { directory, mounts } = await newRuntimeDir();
  await createRuntimeDir(directory);

  expect(statSync(mounts).mode & 0o777).toBe(0o700);
});

test('a state file is read back as it was written, whatever its text', async () => {
  const { directory, mounts } = await newRuntimeDir();

  await writeStateFile(directory, 'b', 'second\nline\u2028 é');
  await writeStateFile(directory, 'a', '');
  await writeStateFile(directory, 'a', 'replaced');

  expect(await readStateFiles(directory)).toEqual([
    { mountId: 'a', text: 'replaced' },
    { mountId: 'b', text: 'second\nline\u2028 é' },
  ]);
  expect(statSync(join(mounts, 'a.json')).mode & 0o777).toBe(0o600);
  expect(readdirSync(mounts)).toEqual(['a.json', 'b.json']);
});

test('what an interrupted write left is removed, and the file before it still counts', async () => {
  const { directory, mounts } = await newRuntimeDir();
  await writeStateFile(directory, 'a', 'whole');
  writeFileSync(join(mounts, 'a.json.new'), '{"hal');

  expect(await readStateFiles(directory)).toEqual([{ mountId: 'a', text: 'whole' }]);
  await removeUnfinishedStateFiles(directory);

  expect(readdirSync(mounts)).toEqual(['a.json']);
});

test('a removed state file is gone, and removing it again is fine', async () => {
  const { directory } = await newRuntimeDir();
  await writeStateFile(directory, 'a', 'x');

  await removeStateFile(directory, 'a');
  await removeStateFile(directory, 'a');

  expect(await readStateFiles(directory)).toEqual([]);
});

test('a damaged state file is put aside and kept for a person to look at', async () => {
  const { directory, mounts } = await newRuntimeDir();
  await writeStateFile(directory, 'a', 'damaged');

  await setAsideStateFile(directory, 'a');

  expect(await readStateFiles(directory)).toEqual([]);
  expect(readFileSync(join(mounts, 'a.json.damaged'), 'utf8')).toBe('damaged');
});

test('a link in the place of the temporary file is not followed', async () => {
  const { directory, mounts } = await newRuntimeDir();
  const victim = join(directory, 'victim');
  writeFileSync(victim, 'untouched');
  symlinkSync(victim, join(mounts, 'a.json.new'));

  await expect(writeStateFile(directory, 'a', 'x')).rejects.toMatchObject({ code: 'runtime-dir.unusable' });

  expect(readFileSync(victim, 'utf8')).toBe('untouched');
});

test('a state directory that went away is named', async () => {
  const { directory, mounts } = await newRuntimeDir();
  rmSync(mounts, { recursive: true });

  await expect(writeStateFile(directory, 'a', 'x')).rejects.toMatchObject({
    code: 'runtime-dir.unusable',
    message: expect.stringContaining(directory),
  });
});

test('a runtime directory that cannot be made is named', async () => {
  const file = join(folder, 'plain-file');
  writeFileSync(file, '');

  await expect(createRuntimeDir(join(file, 'run'))).rejects.toMatchObject({
    code: 'runtime-dir.unusable',
    details: { directory: join(file, 'run') },
  });
});
