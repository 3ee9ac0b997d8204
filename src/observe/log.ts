import winston from 'winston';
import type { Details } from '../core/errors.ts';
import type { Log, LogLevel } from '../core/ports.ts';

/** systemd reads a leading `<N>` as the priority of the line: sd-daemon(3). */
const priorities: Record<LogLevel, number> = { error: 3, warn: 4, info: 6, debug: 7 };

/**
 * Opens the log: one line per state change on stderr, `event name=value …`.
 *
 * Under systemd (`JOURNAL_STREAM` set) each line carries its priority and no time of its own, since the
 * journal has both.
 */
export function openLog(level: LogLevel, environment: Readonly<Record<string, string | undefined>>): Log {
  const underJournal = environment['JOURNAL_STREAM'] !== undefined;
  const logger = winston.createLogger({
    level,
    levels: { error: 0, warn: 1, info: 2, debug: 3 },
    format: winston.format.printf((entry) => {
      const line = formatLine(entry.message as string, entry['fields'] as Details);
      const shownLevel = entry.level as LogLevel;
      return underJournal
        ? `<${priorities[shownLevel]}>${line}`
        : `${new Date().toISOString()} ${shownLevel.padEnd(5)} ${line}`;
    }),
    transports: [new winston.transports.Console({ stderrLevels: ['error', 'warn', 'info', 'debug'] })],
    exitOnError: false,
  });
  return (entryLevel, event, fields = {}) => {
    logger.log(entryLevel, event, { fields });
  };
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
