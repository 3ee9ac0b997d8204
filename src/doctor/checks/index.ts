import type { Check } from '../check.ts';
import { access, nfs } from './access.ts';
import { accessPoint } from './access-point.ts';
import { agent } from './agent.ts';
import { clock } from './clock.ts';
import { configuration } from './configuration.ts';
import { credentials } from './credentials.ts';
import { dns } from './dns.ts';
import { efsUtils } from './efs-utils.ts';
import { fstab } from './fstab.ts';
import { kernelClient } from './kernel-client.ts';
import { mountProgram } from './mount-program.ts';
import { region } from './region.ts';
import { specification } from './specification.ts';
import { systemd } from './systemd.ts';
import { tcp } from './tcp.ts';
import { tls } from './tls.ts';
import { versions } from './versions.ts';

/** All checks, in the order in which a mount passes what they look into. */
export const checks: readonly Check[] = [
  versions,
  kernelClient,
  mountProgram,
  efsUtils,
  systemd,
  agent,
  fstab,
  clock,
  configuration,
  region,
  specification,
  dns,
  tcp,
  tls,
  credentials,
  access,
  accessPoint,
  nfs,
];
