// `npm run bench`: measures efs-agent side by side with others. See docs/decisions/0005.
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';

const usage = `usage: npm run bench [-- COMMAND] [OPTIONS]

  relay    (default) every relay under every load: throughput, latency, CPU, memory
  memory   our processes with 1, 100 and 500 idle tunnels: PSS, wake-ups, CPU; time of status and of a scrape
  latency  mount.efs with a stand-in for mount.nfs4 against a bare node, one at a time and 200 at once
  endurance  an hour of mixed load over connections that end and begin again: memory and descriptors
  scale-up one NFS connection to a mount target that limits each TLS connection to 50 MiB/s, over one of them and over five
  gate     system calls for each record against fixed limits; status 1 when one is exceeded

  --json FILE         also write the figures
  --svg FILE          also draw the relays' figures
  --short             one round of 2 s, fewer tunnels and mounts: shows that it works
  --rounds N          [5]
  --seconds N         measured time of one run [3]
  --minutes N         of endurance [60]
  --relay NAME=CMD    one more relay; CMD with {listen} {connect} {listen-port} {connect-port} {ca} {cert} {key}
                      {server-name} {conf}, for example --relay 'efs-proxy=efs-proxy {conf} --tls'
  --only NAME         only this relay, and those of --relay; again for more
  --load NAME         only this load; again for more
`;

const commands = {
  async relay(options) {
    const { measureRelays, formatRelays } = await import('./relay.mjs');
    const figures = await measureRelays({
      say,
      rounds: options.short ? 1 : Number(options.rounds),
      seconds: options.short ? 2 : Number(options.seconds),
      added: options.relay,
      only: options.only,
      onlyLoads: options.load,
    });
    if (options.svg !== undefined) {
      const { drawRelays } = await import('./picture.mjs');
      writeFileSync(options.svg, drawRelays(figures));
    }
    return {
      figures,
      text: formatRelays(figures),
      held: figures.runs.every(({ failure }) => failure === undefined),
    };
  },
  async memory(options) {
    const { measureMemory, formatMemory } = await import('./memory.mjs');
    const counts = options.short ? [1, 20] : [1, 100, 500];
    const idleSeconds = options.short ? 3 : 60;
    const figures = await measureMemory({ say, counts, idleSeconds, identityLeaves: !options.short });
    return { figures, text: formatMemory(figures), held: true };
  },
  async latency(options) {
    const { measureLatency, formatLatency } = await import('./latency.mjs');
    const figures = await measureLatency({
      say,
      rounds: options.short ? 3 : 20,
      coldRounds: options.short ? 1 : 10,
      crowd: options.short ? 10 : 200,
    });
    return { figures, text: formatLatency(figures), held: true };
  },
  async 'scale-up'(options) {
    const { measureScaleUp, formatScaleUp } = await import('./scale-up.mjs');
    const figures = await measureScaleUp({
      say,
      rounds: options.short ? 1 : Number(options.rounds),
      seconds: options.short ? 2 : Number(options.seconds),
    });
    return { figures, text: formatScaleUp(figures), held: true };
  },
  async endurance(options) {
    const { measureEndurance, formatEndurance } = await import('./endurance.mjs');
    const figures = await measureEndurance({ say, minutes: options.short ? 1 : Number(options.minutes) });
    return { figures, text: formatEndurance(figures), held: true };
  },
  async gate() {
    const { measureGate, formatGate } = await import('./gate.mjs');
    const figures = await measureGate({ say });
    return { figures, text: formatGate(figures), held: figures.held };
  },
};

function say(line) {
  process.stderr.write(`bench: ${line}\n`);
}

function readArguments() {
  const repeated = { type: 'string', multiple: true, default: [] };
  return parseArgs({
    allowPositionals: true,
    options: {
      json: { type: 'string' },
      svg: { type: 'string' },
      short: { type: 'boolean', default: false },
      rounds: { type: 'string', default: '5' },
      seconds: { type: 'string', default: '3' },
      minutes: { type: 'string', default: '60' },
      relay: repeated,
      only: repeated,
      load: repeated,
      help: { type: 'boolean', default: false },
    },
  });
}

async function main() {
  const { values, positionals } = readArguments();
  const name = positionals[0] ?? 'relay';
  for (const option of ['rounds', 'seconds', 'minutes']) {
    if (!(Number(values[option]) > 0))
      throw new Error(`--${option} ${values[option]}: write a number above 0`);
  }
  if (values.help || positionals.length > 1 || !Object.hasOwn(commands, name)) {
    (values.help ? process.stdout : process.stderr).write(usage);
    return values.help ? 0 : 2;
  }
  const { figures, text, held } = await commands[name](values);
  process.stdout.write(text);
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`);
  return held ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (thrown) {
  say(thrown.message);
  process.exitCode = 1;
}
