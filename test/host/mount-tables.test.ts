import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { expect, onTestFinished, test } from 'vitest';
import { parseMountInfo } from '../../src/core/mountinfo.ts';
import { readMountTables } from '../../src/host/mount-tables.ts';
import { canUnshare } from '../support/mount-table.ts';

async function readTables(): Promise<string[]> {
  const tables: string[] = [];
  for await (const table of readMountTables()) tables.push(table);
  return tables;
}

test('the mounts of our own namespace are read first, and only once', async () => {
  const own = parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8')).map((entry) => entry.mountPoint);

  const tables = (await readTables()).map((text) => parseMountInfo(text).map((entry) => entry.mountPoint));

  expect(tables[0]).toEqual(own);
  expect(tables.filter((table) => isDeepStrictEqual(table, own))).toHaveLength(1);
});

test('a mount that only a container sees is found as well', async ({ skip }) => {
  skip(!canUnshare, 'not here: this process may not make mount namespaces');
  const directory = mkdtempSync(join(tmpdir(), 'efs-agent-mounts-'));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  const script = 'mount -t tmpfs efs-agent-test "$1" && echo mounted && exec cat';
  const container = spawn('unshare', ['-m', 'sh', '-c', script, 'sh', directory], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(container, 'exit');
  await once(container.stdout, 'data');

  const seenBy = (await readTables()).filter((text) =>
    parseMountInfo(text).some((entry) => entry.mountPoint === directory),
  );
  container.stdin.end();
  await ended;

  expect(seenBy).toHaveLength(1);
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(directory);
});
