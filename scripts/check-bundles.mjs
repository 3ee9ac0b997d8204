// Smoke test of dist/: every program starts on this Node and says what it is.
import { execFile, fork, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const deadlineMs = 20_000;
const { version } = JSON.parse(readFileSync('package.json', 'utf8'));
const folder = mkdtempSync(join(tmpdir(), 'efs-agent-smoke-'));
const configuration = join(folder, 'efs-utils.conf');
writeFileSync(configuration, '[mount]\nregion = us-east-1\n');
const env = {
  PATH: process.env['PATH'],
  EFS_AGENT_RUNTIME_DIR: join(folder, 'run'),
  EFS_AGENT_CONFIG: configuration,
};

const children = [];
const program = (name) => resolve('dist', name);

async function expectOutput(name, argument, pattern) {
  const { stdout } = await run(process.execPath, [program(name), argument], { env, timeout: deadlineMs });
  if (!pattern.test(stdout))
    throw new Error(`${name} ${argument} printed ${JSON.stringify(stdout.slice(0, 200))}`);
}

async function expectReady(name, firstMessage) {
  const child = fork(program(name), [], { env: {}, execArgv: [], serialization: 'advanced' });
  children.push(child);
  const timer = setTimeout(() => child.kill('SIGKILL'), deadlineMs);
  const ended = once(child, 'exit');
  child.send(firstMessage);
  const [message] = await Promise.race([once(child, 'message'), ended]);
  if (message?.kind !== 'ready')
    throw new Error(`${name} said ${JSON.stringify(message)} where it should say ready`);
  child.disconnect();
  await ended;
  clearTimeout(timer);
}

async function expectAgentServes() {
  const agent = spawn(process.execPath, [program('agent.cjs')], { env, stdio: ['ignore', 'ignore', 'pipe'] });
  children.push(agent);
  const timer = setTimeout(() => agent.kill('SIGKILL'), deadlineMs);
  let log = '';
  agent.stderr.on('data', (chunk) => {
    log += chunk;
  });
  const ended = once(agent, 'exit');
  const socket = join(env.EFS_AGENT_RUNTIME_DIR, 'control.sock');
  while (!existsSync(socket) && agent.exitCode === null && agent.signalCode === null) {
    await new Promise((wake) => setTimeout(wake, 20));
  }
  if (!existsSync(socket)) throw new Error(`agent.cjs opened no control socket:\n${log}`);
  await expectOutput('efs-agent.mjs', 'status', /./);
  agent.kill('SIGTERM');
  const [status] = await ended;
  clearTimeout(timer);
  if (status !== 0) throw new Error(`agent.cjs ended with ${status} on SIGTERM:\n${log}`);
}

try {
  const escaped = new RegExp(version.replaceAll('.', '\\.'));
  await expectOutput('efs-agent.mjs', '--version', escaped);
  await expectOutput('efs-agent.mjs', '--help', /mount/);
  await expectOutput('mount-efs.cjs', '--version', escaped);
  await expectOutput('mount-efs.cjs', '--help', /Usage/);
  await expectReady('worker.cjs', {
    kind: 'start',
    dropTo: null,
    budgetBytes: 1 << 24,
    stallTimeoutMs: 20_000,
    maxConnections: 1,
    callbackSocket: null,
  });
  await expectReady('identity.cjs', { kind: 'start', environment: {}, metadataEndpoint: null, home: folder });
  await expectAgentServes();
  process.stdout.write(`all bundles start on Node ${process.versions.node}\n`);
} finally {
  for (const child of children) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
}
