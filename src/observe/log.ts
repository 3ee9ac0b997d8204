import winston from 'winston';
import type { LogLevelState } from '../core/control-protocol.ts';
import type { Details } from '../core/errors.ts';
import { findEvent } from '../core/events.ts';
import { LogLimit, logWindowMs } from '../core/log-limit.ts';
import type { Clock, Log, LogLevel } from '../core/ports.ts';
import { formatEntry, openJournal } from './journal.ts';

/** The log of a process, and what can be changed about it while it runs. */
export interface OpenLog {
  log: Log;
  level(): LogLevelState;
  /** Changes the level, for so long or until the process ends. Null = the configured one again. */
  setLevel(level: LogLevel | null, forMs: number | null): void;
  /** How often each event has occurred, whether it was written or not. */
  counts(): ReadonlyMap<string, number>;
  /** Writes what is held back or under way. */
  close(): Promise<void>;
}

/** systemd reads a leading `<N>` as the priority of the line: sd-daemon(3). */
const priorities: Record<LogLevel, number> = { error: 3, warn: 4, info: 6, debug: 7 };

/** How long a process that ends waits for the journal, in milliseconds. */
const closeMs = 2_000;

/** What may wait for a reader that is slow or stopped, in bytes: lines beyond that are lost, not kept in memory. */
const mostUnreadBytes = 1024 * 1024;

interface Line {
  level: LogLevel;
  event: Parameters<Log>[1];
  fields: Details;
}

/**
 * Opens the log: one line per state change on stderr, `event name=value …`.
 *
 * Under systemd (`JOURNAL_STREAM` set) each line carries its priority and no time of its own, since the journal has
 * both; events that a program may wait for go there as entries with a message id and fields. What repeats itself is
 * written a few times, and at the end of ten seconds once more with how often it came; not so at level debug.
 */
export function openLog(
  configured: LogLevel,
  environment: Readonly<Record<string, string | undefined>>,
  clock: Clock,
): OpenLog {
  // Whoever read it is gone, or its disk is full: lines are lost then, and mounts go on.
  process.stderr.on('error', () => {});
  const isUnderJournal = environment['JOURNAL_STREAM'] !== undefined;
  const logger = winston.createLogger({
    level: configured,
    levels: { error: 0, warn: 1, info: 2, debug: 3 },
    format: winston.format.printf((entry) => {
      const line = entry.message as string;
      const level = entry.level as LogLevel;
      return isUnderJournal
        ? `<${priorities[level]}>${line}`
        : `${new Date(clock.nowMs()).toISOString()} ${level.padEnd(5)} ${line}`;
    }),
    transports: [new winston.transports.Console({ stderrLevels: ['error', 'warn', 'info', 'debug'] })],
    exitOnError: false,
  });
  const journal = isUnderJournal
    ? openJournal(environment['PATH'], (why) => log('warn', 'log.journal-lost', { why }))
    : null;
  const limit = new LogLimit<Line>();
  const counts = new Map<string, number>();
  let lostLines = 0;
  let untilMs: number | null = null;
  let timer: { cancel(): void } | null = null;

  const log: Log = (level, event, fields = {}) => {
    counts.set(event, (counts.get(event) ?? 0) + 1);
    if (!logger.isLevelEnabled(level)) return;
    const line = { level, event, fields };
    if (logger.level === 'debug') {
      write(line);
      return;
    }
    if (limit.isEmpty) clock.schedule(logWindowMs, writeHeld);
    if (limit.admit(event, aboutOf(fields), line)) write(line);
  };

  function writeHeld(): void {
    for (const { line, count } of limit.endWindow())
      write(count === 1 ? line : { ...line, fields: { ...line.fields, repeated: `${count} times` } });
  }

  function writeLine(level: LogLevel, message: string): void {
    if (process.stderr.writableLength > mostUnreadBytes) {
      lostLines += 1;
      return;
    }
    // Before the line, which may take the last room: a count that is lost itself tells nobody.
    if (lostLines > 0) {
      const count = lostLines;
      lostLines = 0;
      log('warn', 'log.lines-lost', { count });
    }
    logger.log(level, message);
  }

  function write({ level, event, fields }: Line): void {
    const message = formatLine(event, fields);
    const entry = findEvent(event);
    const isWaitedFor = entry !== null && (entry.notable || priorities[level] <= priorities.warn);
    if (journal === null || !isWaitedFor) {
      writeLine(level, message);
      return;
    }
    const head = {
      message,
      messageId: entry.messageId,
      priority: priorities[level],
      event,
      pid: process.pid,
    };
    journal.write(formatEntry(head, fields), () => writeLine(level, message));
  }

  function setLevel(level: LogLevel | null, forMs: number | null): void {
    timer?.cancel();
    timer = null;
    untilMs = null;
    const next = level ?? configured;
    const from = logger.level;
    logger.level = next;
    if (forMs !== null && next !== configured) {
      untilMs = clock.nowMs() + forMs;
      timer = clock.schedule(forMs, () => setLevel(null, null));
    }
    const until = untilMs === null ? null : new Date(untilMs).toISOString();
    log('info', 'log-level.changed', { from, to: next, until });
  }

  return {
    log,
    level: () => ({ level: logger.level as LogLevel, configured, untilMs }),
    setLevel,
    counts: () => counts,
    async close() {
      writeHeld();
      if (journal === null) return;
      const patience = new Promise<void>((resolve) => clock.schedule(closeMs, resolve));
      await Promise.race([journal.settled(), patience]);
    },
  };
}

/** What a line is about, as far as its fields say: lines about different mounts are not alike. */
function aboutOf(fields: Details): string {
  return String(fields['tunnel'] ?? fields['mount'] ?? fields['fileSystem'] ?? fields['code'] ?? '');
}

/**
 * One log line: the event name, then the fields in their order; values with blanks, quotes or control
 * characters are quoted as JSON strings, so that a line stays a line whatever a peer sent.
 */
export function formatLine(event: string, fields: Details): string {
  const pairs = Object.entries(fields)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name}=${formatValue(String(value))}`);
  return [event, ...pairs].join(' ');
}

function formatValue(text: string): string {
  return /^[^\s"=\p{C}]+$/u.test(text)
    ? text
    : JSON.stringify(text).replace(/[\u007f-\u009f\u2028\u2029]/g, '?');
}
