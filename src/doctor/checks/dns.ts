import { type Check, errorOf, ifKnown, pass, skip, warn } from '../check.ts';

/** Whether the mount target's name has an address. */
export const dns: Check = {
  name: 'dns',
  layer: 'dns',
  async run({ spec, plan, addresses }) {
    if (spec === null) return skip('no file system was named');
    const unresolved = (await errorOf(plan(), 'dns')) ?? (await errorOf(addresses(), 'dns'));
    if (unresolved !== null) return unresolved;
    const [planned, found] = [await ifKnown(plan()), await ifKnown(addresses())];
    if (planned === null || found === null) return skip('the name is not known');
    const list = found.list.join(', ');
    if (found.by === 'option') return skip(`not asked: mounttargetip=${list}`);
    if (found.by === 'name') return pass(`${planned.dnsName} is ${list}`);
    return warn(
      `${planned.dnsName} has no address; the EFS API says ${list}`,
      'Let the VPC resolve DNS names (enableDnsSupport, enableDnsHostnames), or give mounttargetip=<address>.',
    );
  },
};
