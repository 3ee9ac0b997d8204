// Writes docs/logs.md from the table of events; `--print` prints the page instead.
import { loadModule, writePage } from './page.mjs';

const { events } = await loadModule('src/core/events.ts');

const rows = Object.entries(events).map(
  ([name, { level, messageId, text, notable }]) =>
    `| \`${name}\` | ${level}${notable ? ', notable' : ''} | \`${messageId}\` | ${text} |`,
);

writePage('docs/logs.md', [
  '# The log',
  '',
  'The agent writes one line for each change of a state: the name of an event, then `name=value` for what it is about. Under systemd',
  'the log is in the journal (`journalctl -u efs-agent`), in a container on standard error, and of an agent that a helper has',
  'started in `/run/efs-agent/agent.log`. No credential, key, signature or certificate body is ever in it.',
  '',
  '```',
  'mount.done tunnel=fs-0123456789abcdef0.mnt.efs.20049 fileSystem=fs-0123456789abcdef0 mountPoint=/mnt/efs port=20049',
  '```',
  '',
  'Names of events do not change between versions, nor do their message ids. Events of level `warn` and `error`, and those marked',
  'notable, are entries of the journal with fields: `MESSAGE_ID`, `EFS_EVENT`, and one for each value of the line, such as',
  '`EFS_TUNNEL`, `EFS_MOUNT_POINT` or `EFS_CODE` (a code of [errors.md](errors.md)):',
  '',
  '```sh',
  `journalctl -u efs-agent MESSAGE_ID=${events['session.stalled'].messageId}    # mount targets that fell silent`,
  'journalctl -u efs-agent -o json EFS_EVENT=mount.done                          # every mount, for programs',
  "journalctl -u efs-agent --grep '^session\\.'                                    # the lines of all connections",
  '```',
  '',
  'This needs `logger` of util-linux; where it is missing, `log.journal-lost` says so once, and all is written as lines.',
  '',
  'What repeats itself is written five times in ten seconds, and at their end once more with `repeated="17 times"`. At level `debug` nothing',
  'is held back. The level is `logging_level` of the configuration; the running agent is told another one with',
  '`efs-agent log-level debug --for 10m`, after which it goes back by itself.',
  '',
  'A reader that is slow or stopped costs lines, and neither mounts nor memory: at most 1 MiB waits for it, and `log.lines-lost` says how',
  'many lines did not.',
  '',
  'A level below is the usual one of an event. This page is made from `src/core/events.ts` by `npm run docs`; a test compares the two.',
  '',
  '| event | level | MESSAGE_ID | meaning |',
  '|---|---|---|---|',
  ...rows,
  '',
]);
