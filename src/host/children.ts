import { type ChildProcess, fork, type SendHandle, type Serializable } from 'node:child_process';
import { type Server, Socket } from 'node:net';
import type { Child } from '../core/ports.ts';

/**
 * Starts one of our programs as a child process with an IPC channel.
 *
 * Its environment is what `environment` says and nothing else.
 *
 * @param program path of a bundle.
 * @param options `nodeOptions` are flags for node, such as heap sizes; `detached` gives it a session of its own.
 */
export function startChild<Sent, Received>(
  program: string,
  options: { environment: NodeJS.ProcessEnv; argv?: string[]; nodeOptions?: string[]; detached?: boolean },
): Child<Sent, Received> {
  const child: ChildProcess = fork(program, options.argv ?? [], {
    execArgv: options.nodeOptions ?? [],
    env: options.environment,
    detached: options.detached ?? false,
    cwd: '/',
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  return {
    pid: child.pid ?? -1,
    send(message, socket) {
      // A channel that just closed is reported by 'exit'; the message is lost with the process.
      if (child.connected)
        child.send(message as Serializable, handleOf(socket), { keepOpen: true }, () => {});
    },
    onMessage(listener) {
      child.on('message', (message) => listener(message as Received));
    },
    onExit(listener) {
      let told = false;
      const tell = (how: string) => {
        if (told) return;
        told = true;
        listener(how);
      };
      child.once('error', (error) => tell(error.message));
      child.once('exit', (code, signal) =>
        tell(signal === null ? `exit status ${code}` : `signal ${signal}`),
      );
    },
    kill(signal) {
      child.kill(signal);
    },
  };
}

/**
 * What travels: a listening server as it is; of an accepted socket its bare handle, for a child that is given a
 * whole socket starts to read from it at once, and bytes that were read cannot be handed to anyone else.
 */
function handleOf(socket: Socket | Server | undefined): SendHandle | undefined {
  if (!(socket instanceof Socket)) return socket;
  return (socket as unknown as { _handle: SendHandle | null })._handle ?? undefined;
}
