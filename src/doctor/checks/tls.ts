import { createTunnelContext, dialUpstream } from '../../tunnel/dial.ts';
import { type Check, errorOf, ifKnown, pass, skip, warn } from '../check.ts';

const dayMs = 86_400_000;
/** AWS replaces its certificates long before. */
const soonDays = 14;

/** Whether the server proves to be the mount target: chain, name, times. */
export const tls: Check = {
  name: 'tls',
  layer: 'tls',
  async run({ spec, plan, endpoints }) {
    if (spec === null) return skip('no file system was named');
    if (!spec.tls) return skip('tls was not given');
    const untrusted = await errorOf(plan(), 'ca-file');
    if (untrusted !== null) return untrusted;
    const [planned, found] = [await ifKnown(plan()), await ifKnown(endpoints())];
    if (planned === null || found === null) return skip('no connection to the mount target');
    const { trustedRootsPem, serverName, dialTimeoutMs } = planned;
    const { socket, facts } = await dialUpstream({
      endpoints: found,
      serverName,
      secureContext: createTunnelContext({ trustedRootsPem, serverName, client: null }),
      timeoutMs: dialTimeoutMs,
      signal: new AbortController().signal,
    });
    socket.destroy();
    const days = Math.floor((facts.certificateExpiresAtMs - Date.now()) / dayMs);
    const evidence = `${facts.tlsVersion} ${facts.cipher} with ${facts.subject}, issued by ${facts.issuer}, good for ${days} days`;
    return days >= soonDays
      ? pass(evidence)
      : warn(evidence, 'Check the clock of this machine (date -u): AWS replaces its certificates earlier.');
  },
};
