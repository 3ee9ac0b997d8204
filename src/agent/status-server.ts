import type { Server } from 'node:net';
import { type AgentStatus, formatMessage } from '../core/control-protocol.ts';
import { AgentError } from '../core/errors.ts';
import type { Clock, Log } from '../core/ports.ts';
import { holdConversations } from './conversation.ts';

/** Users without rights ask here: few at a time, and soon. Root has a socket of its own. */
const limits = { mostOpen: 32, patienceMs: 5_000 };
/** However many ask, the status is put together once in so long, in milliseconds. */
const freshMs = 1_000;
/** Clients in that time; one more is hung up on before anything is done for it. */
const mostInTime = 200;

/** Answers `status` and nothing else, once for each connection. */
export function serveStatus(
  server: Server,
  clock: Clock,
  log: Log,
  readStatus: () => Promise<AgentStatus>,
): void {
  let answer: Promise<string> | null = null;
  let clients = 0;
  let isCounting = false;
  const read = () => {
    answer ??= readStatus().then((status) => formatMessage({ kind: 'status', status }));
    return answer;
  };
  const count = () => {
    clients += 1;
    if (isCounting) return;
    isCounting = true;
    clock.schedule(freshMs, () => {
      isCounting = false;
      clients = 0;
      answer = null;
    });
  };
  // What users do wrong is no matter of the administrator's.
  const quietly: Log = (_level, event, fields) => log('debug', event, fields);
  holdConversations(server, limits, { clock, log: quietly }, (socket, send) => {
    count();
    if (clients > mostInTime) socket.destroy();
    return {
      async answer({ kind }) {
        if (kind !== 'status')
          throw new AgentError('permission.not-root', 'only root may ask the agent for more than its status');
        send(await read());
        socket.end();
      },
      mayBeSilent: () => false,
      end: async () => {},
    };
  });
}
