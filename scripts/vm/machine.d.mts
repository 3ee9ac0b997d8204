import type { Readable } from 'node:stream';

/** How a command is run; `timeoutMs` is 60 seconds unless told. */
export interface RunOptions {
  timeoutMs?: number;
  input?: string | Buffer | Readable;
  env?: Record<string, string>;
  cwd?: string;
}

export interface RunResult {
  code: number;
  stdout: string;
  stderr: string;
}

/** A virtual machine of one's own; a command is a bash line or an argument list. */
export interface Vm {
  run(command: string | string[], options?: RunOptions): Promise<RunResult>;
  stream(
    command: string | string[],
    options?: RunOptions & { onStdout?: (bytes: Buffer) => void; onStderr?: (bytes: Buffer) => void },
  ): Promise<{ code: number; signal: string | null }>;
  copyIn(
    hostPath: string,
    guestPath: string,
    options?: { timeoutMs?: number; only?: string[] },
  ): Promise<void>;
  /** Copies what ./install.sh and scripts/scenes.sh need of this clone to /root/efs-agent; it must have been built. */
  copyClone(): Promise<void>;
  copyOut(guestPath: string, hostPath: string, options?: { timeoutMs?: number }): Promise<void>;
  reboot(): Promise<void>;
  consoleText(): string;
  close(): Promise<void>;
}

export interface VmOptions {
  boot?: 'restore' | 'cold';
  say?: (line: string) => void;
}

export function openVm(options?: VmOptions): Promise<Vm>;
export function ensureVm(say?: (line: string) => void): Promise<{ folder: string; ready: string }>;

/** There can be no virtual machine here: QEMU cannot be installed, no room, an unknown processor. */
export class VmUnavailable extends Error {}
