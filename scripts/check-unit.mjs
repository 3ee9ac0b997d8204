// Says how exposed efs-agent.service is, by systemd's own measure: `systemd-analyze security`, offline. 0 = not at all, 10 = fully.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const highest = 2.5;
const folder = mkdtempSync(join(tmpdir(), 'efs-agent-unit-'));
try {
  const unit = join(folder, 'efs-agent.service');
  writeFileSync(
    unit,
    readFileSync('systemd/efs-agent.service', 'utf8').replaceAll('@NODE@', process.execPath),
  );
  const said = execFileSync('systemd-analyze', ['security', '--offline=true', '--no-pager', unit], {
    encoding: 'utf8',
  });
  const exposure = Number(/Overall exposure level .*: (\d+\.\d+)/.exec(said)?.[1]);
  process.stdout.write(`exposure ${exposure.toFixed(1)} of at most ${highest}\n`);
  if (!(exposure <= highest)) {
    process.stderr.write(said);
    process.exitCode = 1;
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
