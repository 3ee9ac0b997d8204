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

/** What comes back for a text, over a connection of its own. Errors: that of connecting. */
export async function askOnce(port: number, text: string): Promise<string> {
  const echo = await openEcho(port);
  try {
    return await echo.ask(text);
  } finally {
    echo.close();
  }
}

/**
 * Connects, says a word and waits for the answer, over and over; counts what went wrong. The last connection
 * stays until the next one is there: a mount that the kernel does not know lives by its connections.
 */
export function startProbe(port: number) {
  const failures: string[] = [];
  let answers = 0;
  let stopped = false;
  let last: Echo | null = null;
  const running = (async () => {
    while (!stopped) {
      try {
        const echo = await openEcho(port);
        await echo.ask('probe');
        last?.close();
        last = echo;
        answers += 1;
      } catch (error) {
        failures.push((error as Error).message);
      }
    }
  })();
  return {
    answered: () => answers,
    async stop(): Promise<string[]> {
      stopped = true;
      await running;
      last?.close();
      return failures;
    },
  };
}
