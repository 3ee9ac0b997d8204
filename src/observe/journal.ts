import { spawn } from 'node:child_process';
import type { Details } from '../core/errors.ts';

/** Writes entries with fields of their own to the systemd journal, one after the other. */
export interface Journal {
  /** Called instead when an entry cannot be written. */
  write(entry: string, otherwise: () => void): void;
  /** Resolves when nothing is left to write. */
  settled(): Promise<void>;
}

/** Entries that may wait; at a process each, more would only be late. */
const mostWaiting = 256;
/** A program that takes longer is not logger(1), or the journal hangs. */
const timeoutMs = 5_000;

interface Waiting {
  entry: string;
  otherwise: () => void;
}

/**
 * Writes through logger(1) of util-linux, a process for each entry: the journal's own protocol needs datagrams, which
 * Node cannot send to a unix socket.
 *
 * @param onLost called once, when it does not work: nothing is written from then on.
 */
export function openJournal(path: string | undefined, onLost: (why: string) => void): Journal {
  const waiting: Waiting[] = [];
  let isLost = false;
  let work: Promise<void> | null = null;

  async function writeAll(): Promise<void> {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const failure = isLost ? 'lost' : await runLogger(next.entry, path);
      if (failure === null) continue;
      next.otherwise();
      if (isLost) continue;
      isLost = true;
      onLost(failure);
    }
    work = null;
  }

  return {
    write(entry, otherwise) {
      if (isLost || waiting.length >= mostWaiting) {
        otherwise();
        return;
      }
      waiting.push({ entry, otherwise });
      work ??= writeAll();
    },
    settled: () => work ?? Promise.resolve(),
  };
}

/** Null when it is written, else why not. */
function runLogger(entry: string, path: string | undefined): Promise<string | null> {
  return new Promise((resolve) => {
    const child = spawn('logger', ['--journald'], {
      env: { PATH: path },
      cwd: '/',
      stdio: ['pipe', 'ignore', 'ignore'],
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
    });
    child.once('error', (error) => resolve(error.message));
    child.once('exit', (status, signal) =>
      resolve(status === 0 ? null : `logger --journald ended with ${signal ?? `status ${status}`}`),
    );
    child.stdin.on('error', () => {});
    child.stdin.end(entry);
  });
}

/** What stands in an entry beside the fields of its event. */
export interface EntryHead {
  message: string;
  messageId: string;
  /** syslog(3). */
  priority: number;
  event: string;
  /** The process that the entry is about: the journal counts it to the same unit. */
  pid: number;
}

/**
 * One entry of the journal: a line `NAME=value` for each field; those of the event begin with `EFS_`.
 *
 * Source: systemd.journal-fields(7); logger(1).
 */
export function formatEntry(head: EntryHead, fields: Details): string {
  const own = Object.entries(fields)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => [`EFS_${toFieldName(name)}`, String(value)] as const);
  const all = [
    ['MESSAGE', head.message],
    ['MESSAGE_ID', head.messageId],
    ['PRIORITY', String(head.priority)],
    ['SYSLOG_IDENTIFIER', 'efs-agent'],
    ['OBJECT_PID', String(head.pid)],
    ['EFS_EVENT', head.event],
    ...own,
  ] as const;
  return `${all.map(([name, value]) => `${name}=${value.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '?')}`).join('\n')}\n`;
}

/** `mountPoint` is `MOUNT_POINT` there. */
function toFieldName(name: string): string {
  return name.replace(/(?<=[a-z0-9])(?=[A-Z])/g, '_').toUpperCase();
}
