import { writeSync } from 'node:fs';
import { isatty } from 'node:tty';

/** The whole terminal, for a program that draws on it until it ends. */
export interface Screen {
  size(): { columns: number; rows: number };
  /** Draws a frame over the one before: a line for each row, none wider than that. */
  draw(lines: readonly string[]): void;
  /** Gives the terminal back as it was. */
  close(): void;
}

export interface ScreenEvents {
  /** What a key sends: one character, or an escape sequence. */
  onKey(key: string): void;
  /** The size has changed, or the program goes on after it was stopped: draw again. */
  onResize(): void;
}

const enter = '\x1b[?1049h\x1b[?25l';
const leave = '\x1b[?25h\x1b[?1049l';
/** A terminal that knows these shows the frame at once; all others pass them over. */
const beginFrame = '\x1b[?2026h\x1b[H';
const endFrame = '\x1b[?2026l';
const ctrlZ = '\x1a';
/** One key: a character, or an escape sequence; several may arrive at once. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: it is what a terminal sends
const keyPattern = /\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Za-z])|[\s\S]/g;

/**
 * Takes the terminal on standard output over, with its alternate screen; it is given back however the process ends,
 * SIGKILL excepted.
 *
 * Source: xterm control sequences (alternate screen 1049, cursor 25); synchronized output 2026.
 */
export function openScreen({ onKey, onResize }: ScreenEvents): Screen {
  const { stdin, stdout } = process;
  const hasKeys = isatty(0);
  let isTaken = false;

  function take(): void {
    isTaken = true;
    stdout.write(enter);
    if (hasKeys) stdin.setRawMode(true);
  }

  /** Synchronous: nothing that is under way in an ending process is waited for. */
  function giveBack(): void {
    if (!isTaken) return;
    isTaken = false;
    if (hasKeys) stdin.setRawMode(false);
    try {
      writeSync(1, leave);
    } catch {
      // The terminal is gone.
    }
  }

  /** As the shell expects of Ctrl-Z. */
  function suspend(): void {
    giveBack();
    process.once('SIGCONT', () => {
      take();
      onResize();
    });
    process.kill(process.pid, 'SIGTSTP');
  }

  const readKeys = (chunk: Buffer): void => {
    for (const [key] of chunk.toString('latin1').matchAll(keyPattern)) {
      if (key === ctrlZ) suspend();
      else onKey(key);
    }
  };

  // What a crash says shall be seen.
  process.on('uncaughtExceptionMonitor', giveBack);
  process.on('exit', giveBack);
  stdout.on('resize', onResize);
  take();
  if (hasKeys) stdin.on('data', readKeys);

  return {
    size: () => ({ columns: stdout.columns, rows: stdout.rows }),
    draw(lines) {
      if (!isTaken) return;
      // Erased before it is written: after a line that fills its row the cursor still is on the last character, which would go.
      stdout.write(`${beginFrame}${lines.map((line) => `\x1b[2K${line}`).join('\r\n')}${endFrame}`);
    },
    close() {
      stdout.off('resize', onResize);
      process.off('uncaughtExceptionMonitor', giveBack);
      process.off('exit', giveBack);
      if (hasKeys) {
        stdin.off('data', readKeys);
        stdin.pause();
      }
      giveBack();
    },
  };
}
