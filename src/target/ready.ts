import { nfsPort } from './options.ts';
import type { Target, TargetOptions } from './target.ts';

/** What `efs-agent target` prints when it is ready: for people, and as facts for programs. */
export interface ReadyMessage {
  text: string;
  facts: {
    caFile: string;
    metadataEndpoint: string;
    listen: readonly { address: string; port: number }[];
    /** Lines for `/etc/amazon/efs/efs-utils.conf`. */
    conf: string;
    pid: number;
  };
}

/** Says how an agent on this machine reaches the mount target. */
export function readyMessage(
  target: Target,
  { region, fileSystems }: Pick<TargetOptions, 'region' | 'fileSystems'>,
  pid: number,
): ReadyMessage {
  const [first] = target.listening;
  const port = first?.port ?? nfsPort;
  const conf = [
    '[mount]',
    `region = ${region}`,
    `stunnel_cafile = ${target.caFile}`,
    '',
    '[agent]',
    `metadata_endpoint = ${target.metadataUrl}`,
    ...(port === nfsPort ? [] : [`mount_target_port = ${port}`]),
    '',
  ].join('\n');
  const addresses = target.listening.map(({ address, port: bound }) => `${address}:${bound}`).join(', ');
  const text = `The mount target listens on ${addresses}.
Put this into /etc/amazon/efs/efs-utils.conf:

${conf}
Then mount, for example:

  mount -t efs -o tls,iam,mounttargetip=${first?.address ?? '127.0.0.1'} ${fileSystems[0]?.id ?? 'fs-...'} /mnt

`;
  return {
    text,
    facts: {
      caFile: target.caFile,
      metadataEndpoint: target.metadataUrl,
      listen: target.listening,
      conf,
      pid,
    },
  };
}
