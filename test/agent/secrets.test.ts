import { execFile, spawnSync } from 'node:child_process';
import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type AgentStage, fileSystemId, openAgentStage, waitFor } from '../support/agent-stage.ts';

const execute = promisify(execFile);
const direct = 'mounttargetip=127.0.0.1';
const secretKey = 'PLANTEDsecretKEYplantedSECRETkey0123456789';
const sessionToken = 'PLANTEDsessionTOKENplantedSESSIONtoken0123456789';

let stage: AgentStage;
beforeEach(() => {
  stage = openAgentStage([23970, 23989]);
});
afterEach(() => stage.close());

/** How often a text stands in the memory of a process, wherever it may be written to. */
function countInMemory(pid: number, text: string): number {
  const memory = openSync(`/proc/${pid}/mem`, 'r');
  const wanted = Buffer.from(text);
  let count = 0;
  try {
    for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
      const [, start, end, rights] = /^([0-9a-f]+)-([0-9a-f]+) (\S+)/.exec(line) ?? [];
      if (rights?.startsWith('rw') !== true) continue;
      let at = Number.parseInt(start!, 16);
      const stop = Number.parseInt(end!, 16);
      while (at < stop) {
        const piece = Buffer.alloc(Math.min(4 * 2 ** 20, stop - at));
        let got = 0;
        try {
          got = readSync(memory, piece, 0, piece.length, at);
        } catch {
          // A mapping that has gone, or cannot be read.
        }
        if (got === 0) break;
        for (
          let found = piece.indexOf(wanted);
          found >= 0 && found < got;
          found = piece.indexOf(wanted, found + 1)
        )
          count += 1;
        at += got;
      }
    }
  } finally {
    closeSync(memory);
  }
  return count;
}

test('the secret key never reaches the worker, nor any file, log, argument list or environment; the session token only within the certificate', async ({
  skip,
}) => {
  skip(process.getuid?.() !== 0, 'not here: only root may read the memory of other processes');
  await stage.startTarget();
  const agent = await stage.startAgent();
  Object.assign(stage.environment, {
    AWS_ACCESS_KEY_ID: 'ASIA0000000000000000',
    AWS_SECRET_ACCESS_KEY: secretKey,
    AWS_SESSION_TOKEN: sessionToken,
  });

  const mounted = await stage.mountEfs(fileSystemId, stage.mountPoint, '-o', `tls,iam,${direct}`);
  const { pid: worker } = (await stage.status()).worker;

  expect(mounted).toMatchObject({ status: 0, stderr: '' });
  // The search itself finds what is there: the key that was made for the client certificate, in the worker that presents it.
  expect(countInMemory(worker!, 'fs-0123456789abcdef0.efs.us-east-1.amazonaws.com')).toBeGreaterThan(0);
  expect(countInMemory(worker!, secretKey)).toBe(0);
  expect(
    spawnSync('grep', ['-rlaE', `${secretKey}|${sessionToken}`, stage.directory]).stdout.toString(),
  ).toBe('');
  expect(agent.stderr()).not.toContain('PLANTED');
  for (const pid of [agent.child.pid!, worker!])
    for (const file of ['environ', 'cmdline'])
      expect(readFileSync(`/proc/${pid}/${file}`, 'utf8')).not.toContain('PLANTED');
});

test('SIGUSR1 opens no debugger in agent, worker or helper, and ends none of them', async () => {
  await stage.startTarget();
  const agent = await stage.startAgent();
  const tunnel = stage.start('dist/efs-agent.mjs', ['tunnel', fileSystemId, '-o', `tls,${direct}`]);
  await waitFor(() => tunnel.stdout().includes('\n'), 'the tunnel to be ready', tunnel);
  const { pid: worker } = (await stage.status()).worker;

  for (const pid of [agent.child.pid!, worker!, tunnel.child.pid!]) process.kill(pid, 'SIGUSR1');
  const status = await stage.status();

  expect(status.worker).toMatchObject({ pid: worker, restarts: 0 });
  for (const pid of [agent.child.pid!, worker!, tunnel.child.pid!]) {
    const names = spawnSync('cat', [`/proc/${pid}/net/tcp`]).stdout.toString();
    expect(names).not.toMatch(/: 0100007F:240D 00000000:0000 0A/);
  }
  expect(agent.stderr() + tunnel.stderr()).not.toContain('Debugger listening');
});

test('what a caller tells Node by its environment reaches neither a helper nor the agent that it starts', async () => {
  await stage.startTarget();
  const trap = join(stage.directory, 'trap.cjs');
  spawnSync('sh', ['-c', `echo 'process.stderr.write("TRAPPED"); ' > ${trap}`]);
  const environment = {
    ...stage.environment,
    NODE_OPTIONS: `--require ${trap}`,
    NODE_EXTRA_CA_CERTS: trap,
    OPENSSL_CONF: trap,
    SSL_CERT_FILE: trap,
  };

  const ran = await execute(
    join(stage.directory, 'mount.efs'),
    [fileSystemId, stage.mountPoint, '-o', `tls,${direct}`],
    { env: environment },
  );
  const status = await stage.status();

  expect(ran).toMatchObject({ stdout: '', stderr: '' });
  const environ = readFileSync(`/proc/${status.pid}/environ`, 'utf8');
  expect(environ).not.toMatch(/NODE_|OPENSSL_|SSL_CERT/);
  expect(readFileSync(`/proc/${status.pid}/limits`, 'utf8')).toMatch(/^Max core file size +0 +0 /m);
});
