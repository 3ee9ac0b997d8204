import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';

/** A terminal of tmux, in which a shell runs one command after the other. */
export interface Terminal {
  /** What it shows, a line for each row. */
  show(): string[];
  /** Waits until it shows this, and gives what it shows then. */
  wait(pattern: RegExp): Promise<string[]>;
  /** Presses keys, by tmux's names. */
  press(...keys: string[]): void;
  type(text: string): void;
  resize(columns: number, rows: number): void;
  /** Whether a program has it for itself, and whether the cursor is to be seen. */
  state(): { alternate: boolean; cursor: boolean };
  close(): void;
}

/** Opens one, with a shell that has only these variables. */
export function openTerminal(columns: number, rows: number, environment: Record<string, string>): Terminal {
  const folder = mkdtempSync(join(tmpdir(), 'efs-tmux-'));
  const env = {
    LANG: 'C.UTF-8',
    HOME: folder,
    TERM: 'xterm',
    PATH: process.env['PATH'] ?? '',
    ...environment,
  };
  const tmux = (...words: string[]) =>
    execFileSync('tmux', ['-u', '-S', join(folder, 'socket'), '-f', '/dev/null', ...words], {
      env,
      encoding: 'utf8',
    });
  const size = ['-x', String(columns), '-y', String(rows)];
  tmux('new-session', '-d', ...size, "env PS1='$ ' sh");
  const show = () => tmux('capture-pane', '-p').replace(/\n$/, '').split('\n');
  const press = (...keys: string[]) => void tmux('send-keys', ...keys);
  return {
    show,
    async wait(pattern) {
      await expect.poll(() => show().join('\n')).toMatch(pattern);
      return show();
    },
    press,
    type(text) {
      tmux('send-keys', '-l', text);
      press('Enter');
    },
    resize: (newColumns, newRows) =>
      void tmux('resize-window', '-x', String(newColumns), '-y', String(newRows)),
    state() {
      const [alternate, cursor] = tmux('display-message', '-p', '#{alternate_on} #{cursor_flag}').split(' ');
      return { alternate: alternate === '1', cursor: cursor?.trim() === '1' };
    },
    close() {
      tmux('kill-server');
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
