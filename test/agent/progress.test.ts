import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { expect, test } from 'vitest';
import { fileSystemId, openAgentStage } from '../support/agent-stage.ts';

/** script(1) gives a program a terminal. */
const whyNoTerminal = spawnSync('script', ['--version']).error === undefined ? null : 'not here: script(1)';

test('a mount that takes longer than two seconds says on a terminal where it is, with the address', async ({
  skip,
}) => {
  if (whyNoTerminal !== null) skip(whyNoTerminal);
  const stage = openAgentStage([23330, 23339]);
  const silent = createServer((socket) => void socket.on('error', () => {}));
  silent.listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const { port } = silent.address() as AddressInfo;
  stage.configure([], [`mount_target_port = ${port}`]);
  await stage.startAgent();
  const command = `exec "${process.execPath}" ${join(stage.directory, 'mount.efs')} ${fileSystemId} ${stage.mountPoint} -o tls,mounttargetip=127.0.0.1`;
  const terminal = spawn('script', ['-qefc', command, '/dev/null'], {
    env: { ...stage.environment, TERM: 'xterm' },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(terminal, 'exit');
  let seen = '';
  terminal.stdout.on('data', (chunk: Buffer) => {
    seen += stripVTControlCharacters(String(chunk));
  });

  await expect.poll(() => seen, { timeout: 20_000 }).toContain('\n');

  expect(seen).toMatch(new RegExp(`^mount\\.efs: +\\d+ ms  connecting 127\\.0\\.0\\.1:${port}\\r\\n`));
  // Ctrl-C, as a person types it.
  terminal.stdin.write('\u0003');
  expect(await ended).toEqual([8, null]);
  expect(seen).toContain('[interrupted]');
  await stage.close();
  silent.close();
});
