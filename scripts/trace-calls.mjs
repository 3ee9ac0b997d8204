// npm run trace-calls -- [--write] FILE…: runs tests under strace, and says which system calls of the agent, its workers, its identity
// processes and what they start are not in test/golden/system-calls.txt, from which the unit's filter is made. `--write` adds them.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const list = 'test/golden/system-calls.txt';
const isOurs = /\/(?:agent|worker|identity)\.cjs"/;
const births = new Set(['clone', 'clone3', 'fork', 'vfork']);

const argv = process.argv.slice(2);
const files = argv.filter((argument) => !argument.startsWith('--'));
const folder = mkdtempSync(join(tmpdir(), 'efs-agent-trace-'));
try {
  const trace = join(folder, 'trace');
  const command = ['npx', 'vitest', 'run', '--project', 'fast', '--testTimeout', '300000', ...files];
  const { error, status } = spawnSync('strace', ['-f', '-qq', '-s', '4096', '-o', trace, ...command], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  if (error !== undefined) throw error;
  const known = readFileSync(list, 'utf8').split('\n').filter(Boolean);
  const made = listCalls(readFileSync(trace, 'latin1').split('\n'));
  const missing = [...made].filter((call) => !known.includes(call)).sort();
  process.stdout.write(`${made.size} system calls made, not in ${list}: ${missing.join(' ') || 'none'}\n`);
  if (made.size < 50) throw new Error(`no agent was traced; the tests ended with status ${status}`);
  if (argv.includes('--write')) writeFileSync(list, `${[...known, ...missing].sort().join('\n')}\n`);
  else if (missing.length > 0) process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}

/** The calls of our processes: from the moment in which they begin to run our program, and of all that they start. */
function listCalls(lines) {
  const began = new Map();
  const born = new Map();
  const entries = lines.flatMap((line, at) => {
    const [, pid, call] = /^(\d+) +(?:<\.\.\. )?([a-z0-9_]+)/.exec(line) ?? [];
    if (call === undefined) return [];
    if (call === 'execve' && isOurs.test(line) && !began.has(pid)) began.set(pid, at);
    const child = births.has(call) ? / = (\d+)$/.exec(line)?.[1] : undefined;
    if (child !== undefined) born.set(child, { parent: pid, at });
    return [{ pid, call, at }];
  });
  const belongs = (pid, at) => {
    if (began.has(pid) && at >= began.get(pid)) return true;
    const birth = born.get(pid);
    return birth !== undefined && belongs(birth.parent, birth.at);
  };
  return new Set(entries.filter(({ pid, at }) => belongs(pid, at)).map(({ call }) => call));
}
