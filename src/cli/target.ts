import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import type { Writable } from 'node:stream';
import type { CommandModule } from 'yargs';
import { AgentError, asAgentError, renderError } from '../core/errors.ts';
import type { TargetArguments } from '../target/options.ts';

interface TargetCommand extends TargetArguments {
  events: string | undefined;
  json: boolean;
}

const examples = { fileSystem: 'fs-0123456789abcdef0', accessPoint: 'fsap-0123456789abcdef0' } as const;

/** `efs-agent target`: a local EFS mount target with instance metadata, until SIGTERM or SIGINT. */
export const targetCommand: CommandModule<object, TargetCommand> = {
  command: 'target',
  describe: 'Run a local EFS mount target, to try mounts, policies and access points without AWS',
  builder: {
    'file-system': {
      type: 'string',
      array: true,
      default: [],
      describe: `A file system and the directory behind it: ${examples.fileSystem}[=DIR]`,
    },
    'access-point': {
      type: 'string',
      array: true,
      default: [],
      describe: `An access point: ${examples.accessPoint}=fs-...:/PATH[:UID:GID[:MODE]]`,
    },
    policy: {
      type: 'string',
      describe: 'File-system policy (JSON), read again at every connection',
    },
    listen: {
      type: 'string',
      array: true,
      default: ['127.0.0.1:2049'],
      describe: 'Where to listen: ADDRESS[:PORT][=fs-...]',
    },
    metadata: {
      type: 'string',
      default: '127.0.0.1:1338',
      describe: 'Where to answer as instance metadata: ADDRESS:PORT',
    },
    'metadata-v1': {
      type: 'boolean',
      default: false,
      describe: 'Answer metadata requests without a session token too (IMDSv1)',
    },
    region: { type: 'string', default: 'us-east-1', describe: 'Region of the mount target' },
    'dns-suffix': {
      type: 'string',
      default: 'amazonaws.com',
      describe: 'Suffix of AWS host names',
    },
    account: { type: 'string', default: '111122223333', describe: 'Account id' },
    role: { type: 'string', default: 'efs-client', describe: 'Name of the instance role' },
    'instance-id': {
      type: 'string',
      default: 'i-0123456789abcdef0',
      describe: 'Id of the instance',
    },
    'credentials-lifetime': {
      type: 'number',
      default: 21_600,
      describe: 'Seconds for which credentials from the metadata service are good',
    },
    'max-connections': {
      type: 'number',
      default: 5,
      describe: 'Connections that one client may bind together',
    },
    'scale-up-bytes-per-second': {
      type: 'number',
      default: 314_572_800,
      describe: 'From which load a client is told to have more than one connection; 0 = always',
    },
    'limit-bytes-per-second': {
      type: 'number',
      describe: 'What one connection may carry [default: no limit]',
    },
    'state-dir': {
      type: 'string',
      describe: 'Directory for keys and data, kept [default: a temporary one]',
    },
    events: {
      type: 'string',
      describe: 'Append event lines to this file [default: standard output]',
    },
    json: { type: 'boolean', default: false, describe: 'Print one JSON object when ready' },
  },
  handler: runTarget,
};

async function runTarget(typed: TargetCommand): Promise<void> {
  const { openTarget, parseTargetArguments, readyMessage } = await import('../target/index.ts');
  const options = parseTargetArguments(typed);
  const events = typed.events === undefined ? process.stdout : await openEventFile(typed.events);
  const stopped = new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve());
  });
  // A reader of the event lines that goes away does not end the mount target.
  process.stdout.on('error', () => {});

  const target = await openTarget({
    ...options,
    nowMs: Date.now,
    onEvent: (event) => {
      events.write(`${JSON.stringify(event)}\n`);
    },
  });
  process.on('SIGHUP', () => {
    try {
      target.reloadPolicy();
    } catch (thrown) {
      process.stderr.write(renderError('efs-agent target', asAgentError(thrown)));
    }
  });
  const ready = readyMessage(target, options, process.pid);
  process.stdout.write(typed.json ? `${JSON.stringify(ready.facts)}\n` : ready.text);
  await stopped;
  await target.close();
  if (events !== process.stdout) await new Promise<void>((resolve) => events.end(() => resolve()));
}

async function openEventFile(file: string): Promise<Writable> {
  const stream = createWriteStream(file, { flags: 'a' });
  try {
    await once(stream, 'open');
  } catch (thrown) {
    const why = thrown instanceof Error ? thrown.message : String(thrown);
    throw new AgentError(
      'option.malformed',
      `the event file cannot be written: ${why}`,
      { hint: 'Name another file with --events.' },
      thrown,
    );
  }
  // A full disk costs event lines, not mounts.
  stream.on('error', (cause) =>
    process.stderr.write(`efs-agent target: an event was not written: ${cause.message}\n`),
  );
  return stream;
}
