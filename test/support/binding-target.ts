import { once } from 'node:events';
import type { AddressInfo, Socket } from 'node:net';
import { createServer, type TLSSocket } from 'node:tls';
import { createRecordSplitter, type ReadRecord, record, reply } from './rpc.ts';
import type { TemporaryCertificate } from './temporary-ca.ts';

/** A bind call as the mount target sees it. */
export interface SeenBind {
  form: 'current' | 'former';
  uuid: string;
  incarnation: bigint;
}

export type BindAnswer =
  | { type: 'ready' | 'preferred'; partition: number }
  | { type: 'retry' | 'retry-later' | 'error' | 'unknown' }
  | {
      type:
        | 'unsupported'
        | 'denied'
        | 'silence'
        | 'close'
        | 'two-fragments'
        | 'other-xid'
        | 'cut-short'
        | 'too-long'
        | 'call'
        | 'trailing';
    };

/** One finished TLS connection. */
export interface Connection {
  socket: TLSSocket;
  binds: SeenBind[];
  /** NFS records in order, bind calls left out. */
  records: ReadRecord[];
}

/** A mount target that can bind, on real TLS; written from the specification and not with the code under test. */
export interface BindingTarget {
  readonly port: number;
  readonly connections: Connection[];
  /** Settings in its bind replies. */
  settings: { maxConnections: number; thresholdBytesPerSec: number };
  /** How the nth bind call, from 0, is answered. */
  answer: (index: number, bind: SeenBind) => BindAnswer;
  /** How an NFS call is answered; null = not. */
  serve: (call: ReadRecord) => Buffer | null;
  open(): Connection[];
  close(): Promise<void>;
}

const programs = { current: 400_123, former: 100_200 } as const;

export async function openBindingTarget(certificate: TemporaryCertificate): Promise<BindingTarget> {
  const connections: Connection[] = [];
  const plainSockets = new Set<Socket>();
  let binds = 0;
  const server = createServer(
    { cert: certificate.certificatePem, key: certificate.privateKeyPem, allowHalfOpen: true } as object,
    (socket) => {
      const connection: Connection = { socket, binds: [], records: [] };
      connections.push(connection);
      const split = createRecordSplitter();
      socket.on('error', () => {});
      socket.on('end', () => socket.end());
      socket.on('data', (chunk: Buffer) => {
        for (const one of split(chunk)) {
          const bind = one.isCall ? readBind(one.bytes) : null;
          if (bind !== null) {
            connection.binds.push(bind);
            answerBind(socket, one, bind);
            continue;
          }
          connection.records.push(one);
          const answer = one.isCall ? target.serve(one) : null;
          if (answer !== null) socket.write(answer);
        }
      });
    },
  );
  server.on('connection', (socket: Socket) => {
    plainSockets.add(socket);
    socket.on('error', () => {}).on('close', () => plainSockets.delete(socket));
  });
  server.on('tlsClientError', () => {});

  function answerBind(socket: TLSSocket, call: ReadRecord, bind: SeenBind): void {
    const answer = target.answer(binds++, bind);
    const good = () => bindReply(call.xid, bind.form, { type: 'ready', partition: 1 }, target.settings);
    switch (answer.type) {
      case 'silence':
        return;
      case 'close':
        socket.destroy();
        return;
      case 'unsupported':
        socket.write(record(words(call.xid, 1, 0, 0, 0, 1)));
        return;
      case 'denied':
        socket.write(record(words(call.xid, 1, 1, 1, 5)));
        return;
      case 'two-fragments':
        socket.write(record(good(), [20]));
        return;
      case 'other-xid':
        socket.write(
          record(bindReply(call.xid ^ 1, bind.form, { type: 'ready', partition: 1 }, target.settings)),
        );
        return;
      case 'cut-short':
        socket.write(record(good().subarray(0, 40)));
        return;
      case 'too-long':
        socket.write(record(Buffer.concat([good(), Buffer.alloc(1024 * 1024)])));
        return;
      case 'trailing':
        socket.write(Buffer.concat([record(good()), Buffer.from('x')]));
        return;
      case 'call':
        socket.write(call.bytes);
        return;
      default:
        socket.write(record(bindReply(call.xid, bind.form, answer, target.settings)));
    }
  }

  const target: BindingTarget = {
    port: 0,
    connections,
    settings: { maxConnections: 5, thresholdBytesPerSec: 314_572_800 },
    answer: () => ({ type: 'ready', partition: 1 }),
    serve: ({ xid }) => reply(xid),
    open: () => connections.filter(({ socket }) => !socket.destroyed && !socket.readableEnded),
    async close() {
      for (const socket of plainSockets) socket.destroy();
      server.close();
      if (server.listening) await once(server, 'close');
    },
  };
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return Object.assign(target, { port: (server.address() as AddressInfo).port });
}

/** Program, procedure and arguments at the places that the specification gives; null for another call. */
function readBind(bytes: Buffer): SeenBind | null {
  if (bytes.length < 28) return null;
  const [program, version, procedure] = [16, 20, 24].map((at) => bytes.readUInt32BE(at));
  const form =
    program === programs.current && procedure === 2
      ? 'current'
      : program === programs.former && procedure === 1
        ? 'former'
        : null;
  if (form === null || version !== 1 || bytes.length !== 76) return null;
  if (bytes.readUInt32BE(44) !== 16 || bytes.readUInt32BE(64) !== 8) throw new Error('a malformed bind call');
  return { form, uuid: bytes.toString('hex', 48, 64), incarnation: bytes.readBigInt64BE(68) };
}

function bindReply(
  xid: number,
  form: 'current' | 'former',
  answer: BindAnswer,
  settings: BindingTarget['settings'],
): Buffer {
  const types: Record<string, number> = {
    retry: 0,
    'retry-later': 1,
    preferred: 2,
    ready: 3,
    error: 4,
    unknown: 99,
  };
  const parts = [words(xid, 1, 0, 0, 0, 0, types[answer.type]!)];
  if ('partition' in answer) parts.push(Buffer.alloc(64, answer.partition));
  // A string of five bytes and its padding.
  else if (answer.type !== 'unknown') parts.push(words(5), Buffer.from('later\0\0\0'));
  parts.push(words(settings.maxConnections, settings.thresholdBytesPerSec, 1));
  if (form === 'current') parts.push(words(1));
  return Buffer.concat(parts);
}

function words(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, index) => {
    bytes.writeInt32BE(value | 0, 4 * index);
  });
  return bytes;
}
