// The relays that are compared: each is started once and given every load.
import { join } from 'node:path';
import { family, isListening } from './processes.mjs';
import {
  fileSystemId,
  firstLine,
  freePort,
  needProgram,
  serverName,
  startAgent,
  Unavailable,
  waitFor,
} from './stage.mjs';

/**
 * A relay that runs: where to connect, and which processes do its work (asked for at every run).
 * @typedef {{ name: string, port: number, pids: () => number[] }} Relay
 */

/** The relays in the order of the tables; each entry is a function of (stage, server). Errors: `Unavailable`. */
export const ownRelays = {
  'efs-agent': openEfsAgent,
  stunnel: openStunnel,
  haproxy: openHaproxy,
  'node pipe()': openPipe,
  'no relay': async (_stage, server) => ({ name: 'no relay', port: server.plainPort, pids: () => [] }),
};

/** @returns {Promise<Relay>} agent and worker; the command that keeps the tunnel open carries nothing. */
export async function openEfsAgent(
  stage,
  server,
  { name = 'efs-agent', nodeFlags = [], settings = [] } = {},
) {
  const { tlsPort } = server;
  const lower = await freePort();
  const agent = await startAgent(stage, name.replace(/\W/g, '-'), {
    mount: [
      `stunnel_cafile = ${stage.ca}`,
      `port_range_lower_bound = ${lower}`,
      `port_range_upper_bound = ${lower + 50}`,
    ],
    agent: [`mount_target_port = ${tlsPort}`, ...settings],
    nodeFlags,
  });
  const command = [
    join(stage.dist, 'efs-agent.mjs'),
    'tunnel',
    fileSystemId,
    '-o',
    'tls,mounttargetip=127.0.0.1',
  ];
  const tunnel = stage.start(process.execPath, command, { env: agent.env });
  const port = Number((await firstLine(tunnel, 'efs-agent tunnel')).split(':').at(-1));
  return { name, port, pids: () => family(agent.program.pid) };
}

/** With the settings efs-utils writes, but the newest TLS version, as for all others. */
async function openStunnel(stage, { tlsPort }) {
  needProgram('stunnel', 'stunnel4', stage.say, ['stunnel4', 'stunnel.target']);
  const port = await freePort();
  const conf = stage.write(
    'stunnel.conf',
    `fips = no
foreground = yes
debug = 3
socket = l:SO_REUSEADDR=yes
pid =
[efs]
client = yes
accept = 127.0.0.1:${port}
connect = 127.0.0.1:${tlsPort}
renegotiation = no
TIMEOUTbusy = 20
TIMEOUTclose = 0
TIMEOUTidle = 70
delay = yes
verify = 2
CAfile = ${stage.ca}
checkHost = ${serverName}
sni = ${serverName}
libwrap = no
`,
  );
  return startForeign(stage, 'stunnel', port, ['stunnel', conf]);
}

async function openHaproxy(stage, { tlsPort }) {
  needProgram('haproxy', 'haproxy', stage.say, ['haproxy']);
  const port = await freePort();
  const conf = stage.write(
    'haproxy.conf',
    `global
  maxconn 1000
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen efs
  bind 127.0.0.1:${port}
  server target 127.0.0.1:${tlsPort} ssl verify required ca-file ${stage.ca} sni str(${serverName}) verifyhost ${serverName}
`,
  );
  return startForeign(stage, 'haproxy', port, ['haproxy', '-db', '-f', conf]);
}

async function openPipe(stage, { tlsPort }) {
  const script = join(import.meta.dirname, 'pipe-floor.mjs');
  const program = stage.start(process.execPath, [script, tlsPort, stage.ca, serverName]);
  const port = Number((await firstLine(program, 'node pipe()')).split(':').at(-1));
  return { name: 'node pipe()', port, pids: () => family(program.pid) };
}

/**
 * Reads `--relay name=command`. The command is split at blanks and runs without a shell. Its placeholders:
 * {listen}, {connect}: address:port; {listen-port}, {connect-port}; {ca}: file of the trust anchor;
 * {cert}, {key}: files of a client certificate; {server-name}; {conf}: a configuration file as efs-utils writes
 * it for efs-proxy.
 */
export function parseRelay(text) {
  const [, name, command] = /^([^=]+)=(.+)$/s.exec(text) ?? [];
  if (command === undefined) throw new Error(`--relay ${text}: write 'name=command'`);
  return [
    name,
    async (stage, { tlsPort }) => {
      const port = await freePort();
      const values = {
        listen: `127.0.0.1:${port}`,
        connect: `127.0.0.1:${tlsPort}`,
        'listen-port': port,
        'connect-port': tlsPort,
        ca: stage.ca,
        cert: stage.path('client.pem'),
        key: stage.path('client.key'),
        'server-name': serverName,
        conf: writeProxyConf(stage, name, port, tlsPort),
      };
      const words = command.split(/\s+/).filter(Boolean);
      const filled = words.map((word) =>
        word.replace(/\{([a-z-]+)\}/g, (whole, key) => values[key] ?? whole),
      );
      return startForeign(stage, name, port, filled);
    },
  ];
}

function writeProxyConf(stage, name, port, tlsPort) {
  const stem = `relay-${name.replace(/\W/g, '-')}`;
  return stage.write(
    `${stem}.conf`,
    `fips = no
pid = ${stage.path(`${stem}.pid`)}
foreground = yes
[efs]
client = yes
accept = 127.0.0.1:${port}
connect = 127.0.0.1:${tlsPort}
verify = 2
CAfile = ${stage.ca}
cert = ${stage.path('client.pem')}
key = ${stage.path('client.key')}
checkHost = ${serverName}
fs_id = ${fileSystemId}
region = us-east-1
`,
  );
}

async function startForeign(stage, name, port, [command, ...args]) {
  const program = stage.start(command, args);
  try {
    // Not a connection: efs-proxy serves one at a time, and a probe could be it.
    await waitFor(() => isListening(port), name, program);
  } catch (thrown) {
    await stage.stop(program);
    throw new Unavailable(thrown.message);
  }
  return { name, port, pids: () => family(program.pid) };
}
