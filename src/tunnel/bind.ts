import { randomInt, randomUUID } from 'node:crypto';
import {
  type BindForm,
  type BindReply,
  encodeBindCall,
  type ProxyIdentity,
  parseBindReply,
} from '../core/bind-call.ts';
import { startPatience } from '../core/patience.ts';
import { schedule, type Upstream } from './dial.ts';

/**
 * Binds a fresh connection.
 *
 * Errors: none; no reply in time, or an end of the connection, is a `surprise`. After one the connection is of no use.
 */
export function bindUpstream(
  upstream: Upstream,
  form: BindForm,
  identity: ProxyIdentity,
  timeoutMs: number,
): Promise<BindReply> {
  const { socket } = upstream;
  const xid = randomInt(2 ** 32);
  return new Promise((resolve) => {
    let received = Buffer.alloc(0);
    const finish = (reply: BindReply): void => {
      patience.cancel();
      socket.off('end', ended).off('close', ended);
      upstream.readInto(() => true);
      resolve(reply);
    };
    const ended = (): void => finish({ kind: 'surprise', why: 'the mount target closed the connection' });
    const patience = startPatience(schedule, timeoutMs, () =>
      finish({ kind: 'surprise', why: `no answer within ${timeoutMs} ms` }),
    );
    socket.on('end', ended).on('close', ended);
    upstream.readInto((bytes) => {
      received = Buffer.concat([received, bytes]);
      const reply = parseBindReply(form, xid, received);
      if (reply !== null) finish(reply);
      return true;
    });
    if (socket.destroyed || socket.readableEnded) ended();
    else socket.write(encodeBindCall(form, xid, identity));
  });
}

/**
 * The identities of one tunnel: each is lent to one NFS client connection at a time, with a higher incarnation each time.
 *
 * A second client connection at the same time gets an identity of its own: under the first one's, the mount target
 * would discard what it has of the first.
 */
export class ProxyIdentities {
  readonly #free: ProxyIdentity[] = [];

  take(): ProxyIdentity {
    const last = this.#free.pop();
    if (last === undefined)
      return { id: Buffer.from(randomUUID().replaceAll('-', ''), 'hex'), incarnation: 1n };
    const incarnation = BigInt.asIntN(64, last.incarnation + 1n);
    return { id: last.id, incarnation: incarnation < 0n ? 0n : incarnation };
  }

  giveBack(identity: ProxyIdentity): void {
    this.#free.push(identity);
  }
}
