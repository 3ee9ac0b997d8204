import type { CommandModule } from 'yargs';
import { parseDuration } from '../core/duration.ts';
import { isUnwatched } from '../core/status-report.ts';
import type { Caller } from '../helper/caller.ts';
import { readStatusReport } from '../helper/status.ts';
import { jsonOption } from './options.ts';
import { renderStatus } from './render.ts';
import { watchStatus } from './watch.ts';

interface Arguments {
  json: boolean;
  watch: string | undefined;
}

const defaultIntervalMs = 2_000;

/** LSB: the program is not running. Told apart from our own failures by scripts. */
const unwatchedStatus = 3;

/** `efs-agent status`: the mounts and tunnels, also of an agent that does not answer. Never starts an agent. */
export function createStatusCommand(caller: Caller): CommandModule<object, Arguments> {
  return {
    command: 'status',
    builder: (yargs) =>
      yargs.option('json', jsonOption).option('watch', {
        type: 'string',
        describe: 'show it again and again, every so many seconds (2); q ends it',
      }),
    // Its result is the exit status.
    handler: ({ json, watch }) =>
      (watch === undefined
        ? showStatus(json, caller)
        : watchStatus(
            watch === '' ? defaultIntervalMs : parseDuration(watch, '--watch'),
            json,
            caller,
          )) as Promise<never>,
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
