import { spawnSync } from 'node:child_process';
import { existsSync, linkSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { runMountHelper } from '../../src/helper/program.ts';
import { fileSystemId, type HelperStage, isAlive, openHelperStage, type TestCaller } from './stage.ts';

/** An agent that answers each request with a failure that names its environment, for half a second after the last. */
const smallAgent = `
const fs = require('node:fs'), net = require('node:net'), path = require('node:path');
const directory = process.env.EFS_AGENT_RUNTIME_DIR;
try { fs.mkdirSync(path.join(directory, 'lock')); } catch {
  console.error('efs-agent: another agent is here [agent.busy]\\n  Stop it.');
  process.exit(2);
}
fs.writeFileSync(path.join(directory, 'pid'), String(process.pid));
const message = JSON.stringify({ argv: process.argv.slice(2), cwd: process.cwd(), names: Object.keys(process.env) });
const server = net.createServer((socket) => {
  socket.on('error', () => {});
  socket.on('data', () => socket.end(JSON.stringify({ kind: 'failed', error: { code: 'dns.failed', message, details: {} } }) + '\\n'));
});
setTimeout(() => server.listen(path.join(directory, 'control.sock')), 200);
setTimeout(() => process.exit(0), 8000);
`;

let stage: HelperStage;
let caller: TestCaller;
beforeEach(() => {
  stage = openHelperStage();
  caller = stage.caller({ environment: { ...stage.environment, AWS_PROFILE: 'mine' } });
});
afterEach(async () => {
  const pidFile = join(stage.directory, 'run/pid');
  if (existsSync(pidFile)) {
    const pid = Number(readFileSync(pidFile, 'utf8'));
    process.kill(pid, 'SIGKILL');
    await expect.poll(() => isAlive(pid)).toBe(false);
  }
  await stage.close();
});

const mount = (one: TestCaller) => runMountHelper([fileSystemId, stage.mountPoint, '-o', 'tls'], one);

test('an agent that does not run is started on demand, away from the caller and without its identity', async () => {
  stage.write('agent.cjs', smallAgent);

  const status = await mount(caller);

  expect(status).toBe(32);
  const seen = JSON.parse(/\{.*\}/.exec(caller.error)![0]);
  expect(seen).toMatchObject({ argv: ['--on-demand'], cwd: '/' });
  expect(seen.names).toContain('EFS_AGENT_RUNTIME_DIR');
  expect(seen.names).not.toContain('AWS_PROFILE');
  expect(statSync(join(stage.directory, 'run/agent.log')).mode & 0o777).toBe(0o600);
});

test('under systemd an agent that is started has a control group of its own', async () => {
  stage.write('agent.cjs', smallAgent);
  mkdirSync(join(stage.directory, 'systemd'));
  mkdirSync(join(stage.directory, 'bin'));
  writeFileSync(
    join(stage.directory, 'bin/systemd-run'),
    '#!/bin/sh\necho "$1 $2 $3 $4" >"$EFS_AGENT_RUNTIME_DIR/scope"; shift 4; exec "$@"\n',
    { mode: 0o755 },
  );
  const PATH = `${join(stage.directory, 'bin')}:${stage.environment['PATH']}`;
  caller = stage.caller({ environment: { ...stage.environment, PATH } });

  await mount(caller);

  expect(caller.error).toContain('"argv":["--on-demand"]');
  expect(readFileSync(join(stage.directory, 'run/scope'), 'utf8')).toBe('--scope --quiet --collect --\n');
});

test('a log of the agent that is a pipe, or has another name, is not written to', async () => {
  stage.write('agent.cjs', smallAgent);
  const log = join(stage.directory, 'run/agent.log');
  const victim = join(stage.directory, 'victim');
  writeFileSync(victim, 'untouched');
  for (const put of [() => void spawnSync('mkfifo', [log]), () => linkSync(victim, log)]) {
    put();
    const one = stage.caller();

    expect(await mount(one)).not.toBe(0);
    expect(one.error).toContain('not a file of its own');
    rmSync(log);
  }
  expect(readFileSync(victim, 'utf8')).toBe('untouched');
});

test('five helpers that start the agent at once all reach it', async () => {
  stage.write('agent.cjs', smallAgent);
  const callers = Array.from({ length: 5 }, () => stage.caller());

  await Promise.all(callers.map(mount));

  for (const one of callers) expect(one.error).toContain('[dns.failed]');
});

test('an agent that ends instead of answering is reported with its last line', async () => {
  stage.write(
    'agent.cjs',
    `console.error('starting\\nefs-agent: port range is empty [config.invalid]\\n  Correct it.'); process.exit(2);`,
  );

  const status = await mount(caller);

  expect(status).toBe(2);
  expect(caller.error).toContain(
    'the agent did not start: efs-agent: port range is empty [config.invalid] [agent.start-failed]',
  );
  expect(caller.error).toContain('agent.log');
});

test('an agent that neither ends nor listens is given up', async () => {
  stage.write(
    'agent.cjs',
    `require('node:fs').writeFileSync(process.env.EFS_AGENT_RUNTIME_DIR + '/pid', String(process.pid)); setTimeout(() => {}, 8000);`,
  );
  caller.limits.agentStartMs = 500;

  const status = await mount(caller);

  expect(status).toBe(2);
  expect(caller.error).toContain('within 0.5 s [agent.unreachable]');
});

test('a missing agent program is a clear message', async () => {
  const status = await mount(caller);

  expect(status).toBe(2);
  expect(caller.error).toMatch(/the agent's program .*agent\.cjs does not exist \[agent\.start-failed\]/);
});

test('a runtime directory that cannot be made is a clear message', async () => {
  stage.write('agent.cjs', smallAgent);
  stage.write('file', '');
  caller = stage.caller({
    environment: { ...stage.environment, EFS_AGENT_RUNTIME_DIR: join(stage.directory, 'file/run') },
  });

  const status = await mount(caller);

  expect(status).toBe(2);
  expect(caller.error).toMatch(
    /cannot use the runtime directory .*: ENOTDIR at .* \[agent\.start-failed\]\n {2}Make the runtime directory/,
  );
});
