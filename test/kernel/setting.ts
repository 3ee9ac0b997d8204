import { expect, type TestContext } from 'vitest';
import { openVm, type Vm } from '../support/vm.ts';

export const fileSystem = 'fs-096bc04e855823d2e';
export const dnsName = `${fileSystem}.efs.us-east-1.amazonaws.com`;
export const roleArn = 'arn:aws:iam::111122223333:role/efs-client';

const allActions = ['ClientMount', 'ClientRootAccess', 'ClientWrite'] as const;

/** The file-system policy of the scenes: one role may, nobody else; or only some of the actions. */
export function policyFor(principal: string, actions: readonly string[] = allActions): object {
  return {
    Version: '2012-10-17',
    Statement: [
      {
        Effect: 'Allow',
        Principal: { AWS: principal },
        Action: actions.map((action) => `elasticfilesystem:${action}`),
        Resource: '*',
        Condition: { Bool: { 'elasticfilesystem:AccessedViaMountTarget': 'true' } },
      },
    ],
  };
}

/** An event line of the mount target, as far as the scenes look at it. */
export interface ServiceEvent {
  eventName: string;
  errorCode?: string;
  userIdentity?: Record<string, unknown>;
  serviceEventDetails?: { permissions: Record<string, boolean>; sourceIpAddress: string };
  [field: string]: unknown;
}

/** Access points of the file system: the n-th has the directory `/point-n` and the user and group 2000 + n. */
export const accessPoints = Array.from({ length: 10 }, (_, index) => ({
  id: `fsap-${String(index).padStart(17, '0')}`,
  path: `/point-${index}`,
  uid: 2_000 + index,
}));

/** An instance, 10.1.1.10, with efs-agent installed, and a mount target, 10.1.1.6, in a network of its own beside it. */
export interface Setting {
  vm: Vm;
  /** Where the mount target keeps the file system. */
  directory: string;
  /** Null = no policy is set. */
  setPolicy(policy: object | null): Promise<void>;
  /** Everything the service recorded since this was last asked. */
  takeEvents(): Promise<ServiceEvent[]>;
  /** Runs a command; a status other than 0 is an error with what it said. */
  must(command: string, input?: string): Promise<string>;
  /** Errors: a failed assertion, unless within a minute every listener, connection, record and helper is gone. */
  expectNothingLeft(): Promise<void>;
  /** After a failed test: prints what the agent, the mount target and the kernel said last. */
  explain(context: TestContext): Promise<void>;
  close(): Promise<void>;
}

const target = {
  state: '/var/lib/target',
  environment: '/var/lib/target/environment',
  events: '/var/lib/target/events.jsonl',
  policy: '/var/lib/target/policy.json',
};
const withPolicy = `POLICY=--policy ${target.policy}\n`;

const units = {
  'service-network.service': `[Unit]
Description=A network for the mount target
Before=network.target network-online.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/var/lib/target/network
[Install]
WantedBy=multi-user.target
`,
  'mount-target.service': `[Unit]
Description=Local mount target
Requires=service-network.service
After=service-network.service
Before=remote-fs-pre.target
[Service]
NetworkNamespacePath=/run/netns/service
EnvironmentFile=${target.environment}
ExecStart=efs-agent target --file-system ${fileSystem} --listen 10.1.1.6:2049 --metadata 169.254.169.254:80 \\
  --state-dir ${target.state}/keys --events ${target.events} \\
  ${accessPoints.map(({ id, path, uid }) => `--access-point ${id}=${fileSystem}:${path}:${uid}:${uid}:0750`).join(' ')} $POLICY
ExecStartPost=timeout 220 sh -c 'until ip netns exec service ss -Hlnt | grep -q 10.1.1.6:2049; do sleep 0.2; done'
TimeoutStartSec=230
[Install]
WantedBy=multi-user.target
`,
};

const network = `#!/bin/sh
set -e
ip netns add service
ip link add efs0 type veth peer name eth0 netns service
ip address add 10.1.1.10/24 dev efs0
ip link set efs0 up
ip route add 169.254.169.254 via 10.1.1.6
ip -n service link set lo up
ip -n service address add 10.1.1.6/24 dev eth0
ip -n service address add 169.254.169.254/32 dev eth0
ip -n service link set eth0 up
`;

/** Installs this clone's build as ./install.sh does. */
async function installClone(vm: Vm): Promise<string> {
  await vm.copyClone();
  return '/root/efs-agent/install.sh';
}

/** Far more than any command takes: a machine that shares its host with others has to be waited for. */
const commandTimeoutMs = 240_000;

/** Says what is still there of mounts that were unmounted, after a minute at the latest. */
const nothingLeft = `
while :; do
  left=$(
    grep " nfs4 " /proc/mounts
    ss -Hlnt 'src 127.0.0.1' | sed 's/^/listener: /'
    ss -Hnt state established 'dst 10.1.1.6 and dport = 2049' | sed 's/^/connection: /'
    ls -A /run/efs-agent/mounts 2>/dev/null | sed 's/^/record: /'
    pgrep -af 'mount[.-]efs|mount[.]nfs4' | sed 's/^/helper: /'
  )
  if [ -z "$left" ]; then exit 0; fi
  if [ $SECONDS -ge 60 ]; then echo "$left"; exit 1; fi
  sleep 0.3
done`;

/**
 * Opens the setting of the scenes in a virtual machine with systemd; its network and mount target also come up at boot.
 *
 * `prepareInstall` brings efs-agent into the machine and gives the command that installs it.
 */
export async function openSetting(prepareInstall = installClone): Promise<Setting> {
  const machine = await openVm();
  const vm: Vm = {
    ...machine,
    run: (command, options) => machine.run(command, { timeoutMs: commandTimeoutMs, ...options }),
  };
  const must = async (command: string, input = '') => {
    const { code, stdout, stderr } = await vm.run(command, { input });
    if (code !== 0)
      throw new Error(`${command}: status ${code}\n${stdout}${stderr}\n${vm.consoleText().slice(-2_000)}`);
    return stdout;
  };
  const put = (file: string, text: string) => must(`mkdir -p "$(dirname ${file})" && cat > ${file}`, text);
  let taken = 0;
  let hasPolicy = true;
  try {
    await must(await prepareInstall(vm));
    await must('mkdir -p /mount/efs');
    for (const [name, text] of Object.entries(units)) await put(`/etc/systemd/system/${name}`, text);
    await put(`${target.state}/network`, network);
    await put(target.policy, JSON.stringify(policyFor(roleArn)));
    await put(target.environment, withPolicy);
    await must(`chmod +x ${target.state}/network
      systemctl daemon-reload && systemctl enable --now service-network mount-target 2>/tmp/enable || { cat /tmp/enable; journalctl -u mount-target; exit 1; }
      echo "10.1.1.6 ${dnsName}" >> /etc/hosts; cp ${target.state}/keys/ca.pem /etc/amazon/efs/efs-utils.crt`);
  } catch (error) {
    await vm.close();
    throw error;
  }
  const shell = async (command: string) => (await vm.run(command)).stdout;
  return {
    vm,
    must,
    directory: `${target.state}/keys/fs/${fileSystem}`,
    setPolicy: async (policy) => {
      if (policy !== null) await put(target.policy, JSON.stringify(policy));
      if (hasPolicy === (policy !== null)) return;
      hasPolicy = policy !== null;
      await put(target.environment, hasPolicy ? withPolicy : '');
      await must('systemctl restart mount-target');
    },
    takeEvents: async () => {
      const lines = (await must(`touch ${target.events}; cat ${target.events}`))
        .split('\n')
        .filter((line) => line !== '');
      const events = lines.slice(taken).map((line) => JSON.parse(line) as ServiceEvent);
      taken = lines.length;
      return events;
    },
    async expectNothingLeft() {
      // One command, which looks again by itself: each costs an emulated machine a good part of a second.
      const left = await vm.run(nothingLeft);
      expect(left).toEqual({ code: 0, stdout: '', stderr: '' });
      expect(await shell('efs-agent status --json | grep -c mountId')).toBe('0\n');
    },
    async explain({ task }) {
      if (task.result?.state !== 'fail') return;
      const said = await vm.run(
        'journalctl -b --no-pager -o short-precise -n 250; grep -w nfs4 /proc/mounts; ss -Hant',
      );
      console.log(`${task.name}\n${said.stdout}`);
    },
    close: () => vm.close(),
  };
}
