import { connect, type Socket } from 'node:net';

/** A connection through a tunnel to a mount target that sends back what it gets. */
export interface Echo {
  ask(text: string): Promise<string>;
  close(): void;
}

/** Errors: that of connecting. */
export async function openEcho(port: number): Promise<Echo> {
  const socket: Socket = connect({ port, host: '127.0.0.1' });
  await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  return {
    ask(text) {
      socket.write(text);
      return new Promise((resolve, reject) => {
        let answer = '';
        const collect = (chunk: Buffer) => {
          answer += chunk;
          if (answer.length < text.length) return;
          socket.off('data', collect);
          resolve(answer);
        };
        socket.on('data', collect);
        socket.once('close', () => reject(new Error('the connection was closed')));
      });
    },
    close: () => socket.destroy(),
  };
}
