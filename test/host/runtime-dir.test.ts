import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterAll, expect, onTestFinished, test } from 'vitest';
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

async function newRuntimeDir(): Promise<{ directory: string; mounts: string; copies: string }> {
  const directory = join(mkdtempSync(join(folder, 'case-')), 'run');
  await createRuntimeDir(directory);
  return { directory, mounts: join(directory, 'mounts'), copies: join(directory, 'mounts.copy') };
}

/** What is recorded, without the paths. */
async function readTexts(directory: string): Promise<Record<string, (string | null)[]>> {
  const files = await readStateFiles(directory);
  return Object.fromEntries(files.map(({ mountId, records }) => [mountId, records.map(({ text }) => text)]));
}

test('the runtime directory is /run/efs-agent unless EFS_AGENT_RUNTIME_DIR names another', () => {
  expect(runtimeDir({})).toBe('/run/efs-agent');
  expect(runtimeDir({ EFS_AGENT_RUNTIME_DIR: '' })).toBe('/run/efs-agent');
  expect(runtimeDir({ EFS_AGENT_RUNTIME_DIR: '/run/other' })).toBe('/run/other');
  expect(controlSocketPath('/run/other')).toBe('/run/other/control.sock');
});

test('the directory of the state files is for root alone, and making it twice is fine', async () => {
  const { directory, mounts, copies } = await newRuntimeDir();
  await createRuntimeDir(directory);

  expect([mounts, copies].map((path) => statSync(path).mode & 0o777)).toEqual([0o700, 0o700]);
});

test('a state file and its copy are read back as they were written, whatever the text', async () => {
  const { directory, mounts, copies } = await newRuntimeDir();

  await writeStateFile(directory, 'b', 'second\nline\u2028 é');
  await writeStateFile(directory, 'a', '');
  await writeStateFile(directory, 'a', 'replaced');

  expect(await readTexts(directory)).toEqual({
    a: ['replaced', 'replaced'],
    b: ['second\nline\u2028 é', 'second\nline\u2028 é'],
  });
  expect(statSync(join(mounts, 'a.json')).mode & 0o777).toBe(0o600);
  expect([mounts, copies].map((path) => readdirSync(path))).toEqual([
    ['a.json', 'b.json'],
    ['a.json', 'b.json'],
  ]);
});

test('what an interrupted write left is removed, and the file before it still counts', async () => {
  const { directory, mounts } = await newRuntimeDir();
  await writeStateFile(directory, 'a', 'whole');
  writeFileSync(join(mounts, 'a.json.new'), '{"hal');

  expect(await readTexts(directory)).toEqual({ a: ['whole', 'whole'] });
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

  await setAsideStateFile(directory, join(mounts, 'a.json'));

  expect(await readTexts(directory)).toEqual({ a: ['damaged'] });
  expect(readFileSync(join(mounts, 'a.json.damaged'), 'utf8')).toBe('damaged');
});

test('a state file that cannot be read is there without a text, and what is no directory has no files', async () => {
  const { directory, mounts, copies } = await newRuntimeDir();
  await writeStateFile(directory, 'a', 'x');
  rmSync(join(mounts, 'a.json'));
  mkdirSync(join(mounts, 'a.json'));

  expect(await readTexts(directory)).toEqual({ a: [null, 'x'] });
  rmSync(copies, { recursive: true });
  expect(await readTexts(directory)).toEqual({ a: [null] });
});

test('a write that fails leaves no half file behind', async () => {
  const { directory, mounts } = await newRuntimeDir();
  mkdirSync(join(mounts, 'a.json'));
  writeFileSync(join(mounts, 'a.json', 'in the way'), '');

  await expect(writeStateFile(directory, 'a', 'x')).rejects.toMatchObject({ code: 'runtime-dir.unusable' });

  expect(readdirSync(mounts)).toEqual(['a.json']);
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

const planted: [what: string, plant: (directory: string) => void, why: RegExp][] = [
  [
    'a link in place of the runtime directory',
    (directory) => {
      mkdirSync(`${directory}.elsewhere`);
      symlinkSync(`${directory}.elsewhere`, directory);
    },
    /it is not a directory/,
  ],
  [
    'a runtime directory of another user',
    (directory) => {
      mkdirSync(directory);
      chownSync(directory, 65_534, 65_534);
    },
    /it belongs to user 65534/,
  ],
  [
    'a link in place of the directory of the records',
    (directory) => {
      mkdirSync(`${directory}.elsewhere`);
      mkdirSync(directory);
      symlinkSync(`${directory}.elsewhere`, join(directory, 'mounts'));
    },
    /it is not a directory/,
  ],
  [
    'a directory of the records of another user',
    (directory) => {
      mkdirSync(join(directory, 'mounts'), { recursive: true });
      chownSync(join(directory, 'mounts'), 65_534, 65_534);
    },
    /it belongs to user 65534/,
  ],
];

test.for(planted)('%s is refused, and nothing is written there', async ([, plant, why], { skip }) => {
  skip(process.getuid?.() !== 0, 'not here: only root can give files to other users');
  const directory = join(mkdtempSync(join(tmpdir(), 'efs-agent-planted-')), 'run');
  onTestFinished(() => rmSync(dirname(directory), { recursive: true, force: true }));
  plant(directory);

  await expect(createRuntimeDir(directory)).rejects.toMatchObject({
    code: 'runtime-dir.unusable',
    message: expect.stringMatching(why),
  });
});

test('a runtime directory of ours that everybody may write to is closed to the others', async () => {
  const directory = join(mkdtempSync(join(tmpdir(), 'efs-agent-open-')), 'run');
  onTestFinished(() => rmSync(dirname(directory), { recursive: true, force: true }));
  mkdirSync(join(directory, 'mounts'), { recursive: true });
  chmodSync(directory, 0o777);
  chmodSync(join(directory, 'mounts'), 0o755);

  await createRuntimeDir(directory);

  expect(statSync(directory).mode & 0o777).toBe(0o755);
  expect(statSync(join(directory, 'mounts')).mode & 0o777).toBe(0o700);
});
