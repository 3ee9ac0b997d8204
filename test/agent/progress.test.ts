import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type AgentStage, fileSystemId, openAgentStage } from '../support/agent-stage.ts';
import { openTerminal, type Terminal } from '../support/terminal.ts';

let stage: AgentStage;
let terminal: Terminal | null;
beforeEach(() => {
  stage = openAgentStage([23330, 23339]);
  terminal = null;
});
afterEach(async () => {
  terminal?.close();
  await stage.close();
});

/** A terminal in which `mount_efs` mounts, as mount(8) calls mount.efs. */
async function openMountTerminal(columns: number): Promise<Terminal> {
  terminal = openTerminal(columns, 24, stage.environment as Record<string, string>);
  await terminal.wait(/^\$/m);
  const mount = `"${process.execPath}" ${join(stage.directory, 'mount.efs')} ${fileSystemId}`;
  terminal.type(`mount_efs() { ${mount} ${stage.mountPoint} -o tls,mounttargetip=127.0.0.1 "$@"; }; clear`);
  // The line itself is gone, and a prompt alone is left.
  await terminal.wait(/^\$\s*$/);
  return terminal;
}

/** The lines that mount.efs wrote, with the same time, address and port, whichever they were. */
function readProgress(lines: readonly string[]): string[] {
  return lines
    .filter((line) => line.startsWith('mount.efs:'))
    .map((line) =>
      line
        .replace(/ +\d+ ms/, ' N ms')
        .replace(/\d+(?:\.\d+){3}(:\d+)?/, (_, port) => `ADDRESS${port ? ':PORT' : ''}`),
    );
}

test.each([80, 120])(
  'in a terminal of %i columns a mount that takes longer than two seconds says where it is, and -v tells every phase',
  async (columns) => {
    const silent = createServer((socket) => void socket.on('error', () => {}));
    silent.listen(0, '127.0.0.1');
    await once(silent, 'listening');
    const { port } = silent.address() as AddressInfo;
    stage.configure([], [`mount_target_port = ${port}`]);
    await stage.startAgent();
    const shown = await openMountTerminal(columns);

    shown.type('mount_efs; echo ended with $?');
    const slow = await shown.wait(/ms {2}connecting/);
    shown.press('C-c');
    const interrupted = await shown.wait(/^ended with \d+$/m);
    silent.close();
    await stage.startTarget();
    shown.type('clear; mount_efs -v; echo ended with $?');
    const verbose = await shown.wait(/^mount\.efs: .*mounted\nended with 0$/m);

    expect(readProgress(slow)).toEqual(['mount.efs: N ms  connecting ADDRESS:PORT']);
    expect(slow.join('\n')).toMatch(
      new RegExp(`^mount\\.efs: +\\d+ ms {2}connecting 127\\.0\\.0\\.1:${port}$`, 'm'),
    );
    // The terminal breaks the line, which names the mount, at its edge, and a blank there is lost.
    expect(interrupted.join('').replaceAll(' ', '')).toContain(
      `mount.efs:${fileSystemId}on${stage.mountPoint}:interruptedbyasignal;everythingbegunwasundone[interrupted]Runthecommandagain.endedwith8`,
    );
    expect(readProgress(verbose)).toEqual([
      'mount.efs: N ms  using ADDRESS',
      'mount.efs: N ms  connecting ADDRESS:PORT',
      'mount.efs: N ms  TLSv1.3 with ADDRESS',
      'mount.efs: N ms  mounting',
      'mount.efs: N ms  mounted',
    ]);
    const inReadme = /^# mount -t efs -v .*\n((?:mount\.efs: .*\n)+)/m.exec(
      readFileSync('README.md', 'utf8'),
    )!;
    expect(readProgress(inReadme[1]!.trimEnd().split('\n'))).toEqual(readProgress(verbose));
  },
);
