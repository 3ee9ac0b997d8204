// `bench scale-up`: one NFS connection to a mount target that limits each TLS connection, carried over one of them and
// over five.
import { describeMachine, loads, runLoad } from './relay.mjs';
import { openEfsAgent } from './relays.mjs';
import { openStage, startServer } from './stage.mjs';
import { formatTable, median } from './tables.mjs';

const limitBytesPerSecond = 50 * 2 ** 20;
/** The second after which more connections are wanted, and the search for them, lie before what is measured. */
const warmMs = 4_000;
const load = loads['reads-64k'];
/** Of what one connection carries. */
const goal = 4;

export async function measureScaleUp({ say, rounds, seconds }) {
  const stage = await openStage({ say });
  try {
    const server = await startServer(stage, limitBytesPerSecond);
    const ways = [];
    for (const connections of [1, 5]) {
      const options = { name: `up-to-${connections}`, settings: [`max_connections = ${connections}`] };
      ways.push({ connections, relay: await openEfsAgent(stage, server, options) });
    }
    const runs = [];
    for (let round = 0; round < rounds; round += 1) {
      for (const { connections, relay } of ways) {
        const { failure, rate, cpu } = await runLoad(stage, server, relay, load, seconds, warmMs);
        if (failure !== undefined) throw new Error(`${connections} connections: ${failure}`);
        runs.push({ round, connections, rate, cpu });
      }
      say(`${round + 1} of ${rounds} rounds done`);
    }
    return { machine: describeMachine(), date: new Date().toISOString(), limitBytesPerSecond, runs };
  } finally {
    await stage.close();
  }
}

/** The table as Markdown. */
export function formatScaleUp({ machine, date, limitBytesPerSecond, runs }) {
  const counts = [...new Set(runs.map(({ connections }) => connections))];
  const middle = (connections, figure) =>
    median(runs.filter((run) => run.connections === connections).map((run) => run[figure]));
  const [one, most] = counts.map((connections) => middle(connections, 'rate'));
  const rows = counts.map((connections) => [
    String(connections),
    middle(connections, 'rate').toFixed(0),
    (middle(connections, 'rate') / one).toFixed(2),
    middle(connections, 'cpu').toFixed(2),
  ]);
  const table = formatTable(['TLS connections', 'MiB/s', 'of one', 'CPU s/GiB'], rows);
  const verdict = `At least ${goal} times one connection: ${most / one >= goal ? 'met' : 'MISSED'}.`;
  const limit = (limitBytesPerSecond / 2 ** 20).toFixed(0);
  return `${machine}; ${date}; ${load.title}, each TLS connection limited to ${limit} MiB/s.\n\n${table}\n\n${verdict}\n`;
}
