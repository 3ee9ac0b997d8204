import { type Check, errorOf, failure, ifKnown, pass, skip, warn } from '../check.ts';

const minuteMs = 60_000;

/** Whether there are credentials, and whose. Without a file system, or without `iam`, nothing depends on them. */
export const credentials: Check = {
  name: 'credentials',
  layer: 'iam',
  async run({ spec, identity, region }) {
    if (spec !== null && !spec.iam) return skip('iam was not given: the mount is anonymous');
    if ((await errorOf(region(), 'region', 'zone', 'config', 'spec', 'option', 'dns', 'ca-file')) !== null)
      return skip('the region is not known');
    const found = await ifKnown(identity());
    if (found === null) {
      const missing = await identity().then(() => null, failure);
      return spec === null ? { ...missing!, verdict: 'WARN' } : missing!;
    }
    const { arn, accessKeyId, source, expiresAtMs } = found;
    const leftMinutes = expiresAtMs === null ? null : Math.floor((expiresAtMs - Date.now()) / minuteMs);
    const evidence = `${arn ?? `access key ${accessKeyId}`}, from ${source}${leftMinutes === null ? '' : `, good for ${leftMinutes} min`}`;
    return leftMinutes !== null && leftMinutes < 5
      ? warn(evidence, 'See why the credentials are not renewed; expired ones are refused.')
      : pass(evidence);
  },
};
