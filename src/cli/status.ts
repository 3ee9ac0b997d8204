import type { CommandModule } from 'yargs';
import { isUnwatched } from '../core/status-report.ts';
import type { Caller } from '../helper/caller.ts';
import { readStatusReport } from '../helper/status.ts';
import { jsonOption } from './options.ts';
import { renderStatus } from './render.ts';

interface Arguments {
  json: boolean;
}

/** LSB: the program is not running. Told apart from our own failures by scripts. */
const unwatchedStatus = 3;

/** `efs-agent status`: the mounts and tunnels, also of an agent that does not answer. Never starts an agent. */
export function createStatusCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'status',
    builder: (yargs) => yargs.option('json', jsonOption),
    // Its result is the exit status.
    handler: ({ json }) => showStatus(json, caller) as Promise<never>,
  };
}

async function showStatus(json: boolean, caller: Caller): Promise<number> {
  const report = await readStatusReport(caller);
  caller.writeOut(
    json
      ? `${JSON.stringify(report, null, 2)}\n`
      : renderStatus(report, { nowMs: Date.now(), width: caller.outColumns }),
  );
  return [report, ...report.otherNetworkNamespaces].some(isUnwatched) ? unwatchedStatus : 0;
}
