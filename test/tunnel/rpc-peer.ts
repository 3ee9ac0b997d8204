import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { call, createRecordSplitter, type ReadRecord, reply } from '../support/rpc.ts';
import { deadlineMs, read } from './stage.ts';

/** A mount target's side of a connection that answers calls as it is told. */
export interface RpcPeer {
  /** Records that came, in order, over all connections. */
  readonly got: ReadRecord[];
  /** For `startPeer`. */
  serve(socket: TLSSocket): void;
  /** While true, calls are kept and not answered. */
  hold(holding: boolean): void;
  /** Resolves when this many records have come. */
  received(count: number): Promise<void>;
}

/** Answers every call with a reply of the same transaction id. */
export function createRpcPeer(replyBytes = 24): RpcPeer {
  const got: ReadRecord[] = [];
  const held: (() => void)[] = [];
  let holding = false;
  return {
    got,
    serve(socket) {
      const split = createRecordSplitter();
      socket.on('data', (chunk: Buffer) => {
        for (const record of split(chunk)) {
          got.push(record);
          if (!record.isCall) continue;
          const answer = () => void socket.write(reply(record.xid, replyBytes));
          if (holding) held.push(answer);
          else answer();
        }
      });
      socket.on('end', () => socket.end());
    },
    hold(value) {
      holding = value;
      if (!value) for (const answer of held.splice(0)) answer();
    },
    async received(count) {
      const giveUp = Date.now() + deadlineMs;
      while (got.length < count) {
        if (Date.now() > giveUp) throw new Error(`${got.length} of ${count} records came`);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    },
  };
}

/** Sends a call and reads its reply. */
export async function ask(client: Socket, xid: number, replyBytes = 24): Promise<void> {
  client.write(call(xid));
  await readReply(client, xid, replyBytes);
}

export async function readReply(client: Socket, xid: number, replyBytes = 24): Promise<void> {
  const bytes = await read(client, 4 + replyBytes);
  if (bytes.readUInt32BE(4) !== xid) throw new Error(`a reply to ${bytes.readUInt32BE(4)}, not to ${xid}`);
}
