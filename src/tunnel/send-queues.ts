import { readFileSync } from 'node:fs';
import { isIPv6, type Socket } from 'node:net';
import { endianness } from 'node:os';
import { findUnacknowledgedBytes } from '../core/tcp-table.ts';

/**
 * What the kernel keeps of the bytes it has taken: the only sign by which a mount target that reads slowly differs from one that is gone,
 * when the kernel's buffer is large.
 *
 * The tables are read at most once a tick, and only while a connection is under suspicion.
 */
export class SendQueues {
  readonly #nowTick: () => number;
  #readTick = -1;
  readonly #tables = new Map<string, string>();

  constructor(nowTick: () => number) {
    this.#nowTick = nowTick;
  }

  /** Units: bytes; null when it cannot be told. Errors: none. */
  unacknowledgedBytes(socket: Socket): number | null {
    const { localAddress, localPort, remoteAddress, remotePort } = socket;
    if (localAddress === undefined || localPort === undefined) return null;
    if (remoteAddress === undefined || remotePort === undefined) return null;
    return findUnacknowledgedBytes(
      this.#table(isIPv6(remoteAddress) ? '/proc/net/tcp6' : '/proc/net/tcp'),
      { address: localAddress, port: localPort },
      { address: remoteAddress, port: remotePort },
      endianness(),
    );
  }

  #table(path: string): string {
    if (this.#readTick !== this.#nowTick()) {
      this.#tables.clear();
      this.#readTick = this.#nowTick();
    }
    const known = this.#tables.get(path);
    if (known !== undefined) return known;
    const text = readTable(path);
    this.#tables.set(path, text);
    return text;
  }
}

function readTable(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}
