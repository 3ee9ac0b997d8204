import { Socket, type SocketConstructorOpts } from 'node:net';

/** An accepted local connection as it arrives from the agent: its bare handle, from which nothing is read yet. */
export type LocalHandle = object;

/** Makes a socket of it; from here on bytes are read, and nobody else can have them. */
export function openLocal(handle: LocalHandle): Socket {
  // The option is what node itself passes for the sockets it accepts; its types do not name it.
  const socket = new Socket({ handle, allowHalfOpen: true } as SocketConstructorOpts);
  socket.on('error', () => {});
  return socket;
}
