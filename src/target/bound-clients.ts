import { randomBytes } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { RecordReader } from '../core/rpc-record.ts';
import { type Bind, type BindVerdict, formatBindReply, type Multiplexing } from './bind.ts';
import type { JoinCounters } from './join.ts';
import type { Pace } from './pace.ts';

/** Nothing that NFS sends is longer; RFC 8881 leaves it to the server. */
const maxRecordBytes = 4 * 1024 * 1024;

/** Clients that reach a backend over several connections, of which the backend sees one. */
export class BoundClients {
  readonly #multiplexing: Multiplexing;
  readonly #groups = new Map<string, Group>();
  readonly #partitions = new Map<string, Buffer>();

  constructor(multiplexing: Multiplexing) {
    this.#multiplexing = multiplexing;
  }

  /** Answers a client that may not mount. */
  refuse(client: Duplex, bind: Bind): void {
    client.write(formatBindReply(bind, { type: 'error', message: 'access denied' }, this.#multiplexing));
  }

  /**
   * Answers a bind call, which is not counted, and serves the connection; resolves when it is closed. Errors: those of `connect`.
   *
   * Connections of one proxy id and incarnation and of one `backendName` share one backend connection. A higher
   * incarnation ends the connections of the lower ones.
   *
   * @param backendName which server, seen with which permissions: clients of two names are never joined.
   * @param connect opens a connection to it. The bind call is answered before, as a service does whose servers all run:
   * one that has to be started first takes seconds on a small machine.
   */
  serve(
    client: Duplex,
    bind: Bind,
    backendName: string,
    connect: () => Promise<Duplex>,
    counters: JoinCounters,
    pace: Pace | null,
  ): Promise<void> {
    const key = `${bind.proxyId} ${backendName}`;
    let group = this.#groups.get(key);
    if (group !== undefined && bind.incarnation > group.incarnation) {
      group.close();
      group = undefined;
    }
    const verdict = this.#judge(bind, group, backendName);
    client.write(formatBindReply(bind, verdict, this.#multiplexing));
    if (group === undefined || verdict.type !== 'ready') {
      const made = new Group(bind.incarnation, connect(), () => {
        if (this.#groups.get(key) === made) this.#groups.delete(key);
      });
      // One that was not bound is served alone.
      if (verdict.type === 'ready') this.#groups.set(key, made);
      group = made;
    }
    return group.join(client, counters, pace);
  }

  #judge(bind: Bind, group: Group | undefined, backendName: string): BindVerdict {
    if (group !== undefined && bind.incarnation < group.incarnation) {
      return { type: 'error', message: 'a later incarnation is connected' };
    }
    if (group !== undefined && group.size >= this.#multiplexing.maxConnections) {
      return { type: 'retryLater', message: 'enough connections are bound' };
    }
    const partition = this.#partitions.get(backendName) ?? randomBytes(64);
    this.#partitions.set(backendName, partition);
    return { type: 'ready', partition };
  }
}

interface Member {
  client: Duplex;
  counters: JoinCounters;
  pace: Pace | null;
}

/** Some client connections and their one backend connection. */
class Group {
  readonly incarnation: bigint;
  readonly #connecting: Promise<Duplex | null>;
  /** Null until it is connected. */
  #backend: Duplex | null = null;
  #closed = false;
  /** Why it could not be connected. */
  #failure: unknown = null;
  readonly #members = new Set<Member>();
  /** Transaction id -> whose call it is. */
  readonly #callers = new Map<number, Member>();
  readonly #onClosed: () => void;

  constructor(incarnation: bigint, connecting: Promise<Duplex>, onClosed: () => void) {
    this.incarnation = incarnation;
    this.#onClosed = onClosed;
    this.#connecting = connecting.then(
      (backend) => this.#attach(backend),
      (thrown: unknown) => {
        this.#failure = thrown;
        this.close();
        return null;
      },
    );
  }

  /** Null when nobody is left who wants it. */
  #attach(backend: Duplex): Duplex | null {
    if (this.#closed) {
      backend.on('error', () => {}).destroy();
      return null;
    }
    this.#backend = backend;
    const split = createRecordSplitter();
    backend.on('data', (chunk: Buffer) => {
      for (const record of split(chunk) ?? this.#refuse()) this.#deliver(record);
    });
    backend.on('drain', () => {
      for (const { client } of this.#members) client.resume();
    });
    backend.on('error', () => {});
    backend.on('close', () => this.close());
    return backend;
  }

  get size(): number {
    return this.#members.size;
  }

  join(client: Duplex, counters: JoinCounters, pace: Pace | null): Promise<void> {
    const member = { client, counters, pace };
    this.#members.add(member);
    client.on('error', () => {});
    void this.#connecting.then((backend) => {
      if (backend !== null && !client.closed) this.#carry(member, backend);
    });
    return new Promise((done, reject) => {
      const leave = () => {
        this.#members.delete(member);
        for (const [xid, caller] of this.#callers) if (caller === member) this.#callers.delete(xid);
        this.#backend?.resume();
        if (this.#members.size === 0) this.close();
        if (this.#failure === null) done();
        else reject(this.#failure);
      };
      if (client.closed) leave();
      else client.once('close', leave);
    });
  }

  /** The client has waited, paused, since its bind call was read. */
  #carry(member: Member, backend: Duplex): void {
    const { client, counters, pace } = member;
    const split = createRecordSplitter();
    client.on('data', (chunk: Buffer) => {
      counters.bytesReceived += chunk.length;
      const records = split(chunk);
      if (records === null) client.destroy();
      for (const record of records ?? []) this.#forward(member, record);
      const delayMs = pace?.take(chunk.length) ?? 0;
      if (delayMs > 0) {
        client.pause();
        setTimeout(() => client.resume(), delayMs);
      }
    });
    client.on('drain', () => backend.resume());
    // The end of one connection is the end of what it carried; the others go on.
    client.on('end', () => client.end());
    client.resume();
  }

  close(): void {
    this.#closed = true;
    this.#onClosed();
    this.#backend?.destroy();
    for (const { client } of this.#members) client.destroy();
  }

  #forward(member: Member, record: Record): void {
    if (record.isCall) this.#callers.set(record.xid, member);
    if (this.#backend?.write(record.bytes) === false) for (const { client } of this.#members) client.pause();
  }

  /** An answer goes where its call came from; a callback to any. */
  #deliver(record: Record): void {
    const [first] = this.#members;
    const member = record.isCall ? first : this.#callers.get(record.xid);
    if (!record.isCall) this.#callers.delete(record.xid);
    if (member === undefined) return;
    member.counters.bytesSent += record.bytes.length;
    const delayMs = member.pace?.take(record.bytes.length) ?? 0;
    // What is late stays in order: a pace only ever asks for more time.
    if (delayMs > 0) setTimeout(() => member.client.write(record.bytes), delayMs);
    else if (!member.client.write(record.bytes)) this.#backend?.pause();
  }

  #refuse(): [] {
    this.close();
    return [];
  }
}

interface Record {
  xid: number;
  isCall: boolean;
  bytes: Buffer;
}

/** Cuts a stream into whole records; null when it is not made of them. */
function createRecordSplitter(): (chunk: Buffer) => Record[] | null {
  const reader = new RecordReader();
  let pending: Buffer[] = [];
  return (chunk) => {
    const records: Record[] = [];
    for (let at = 0; at < chunk.length; ) {
      const to = reader.advance(chunk, at);
      if (reader.lost || reader.recordBytes > maxRecordBytes) return null;
      pending.push(chunk.subarray(at, to));
      at = to;
      if (!reader.atBoundary) continue;
      records.push({ xid: reader.xid, isCall: reader.isCall, bytes: Buffer.concat(pending) });
      pending = [];
    }
    return records;
  };
}
