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

/** An instance, 10.1.1.10, with efs-agent installed, and a mount target, 10.1.1.6, in a network of its own beside it. */
export interface Setting {
  vm: Vm;
  /** Null = no policy is set. */
  setPolicy(policy: object | null): Promise<void>;
  /** Everything the service recorded since this was last asked. */
  takeEvents(): Promise<ServiceEvent[]>;
  close(): Promise<void>;
}

const target = {
  unit: 'target',
  state: '/var/lib/target',
  events: '/var/lib/target/events.jsonl',
  log: '/var/lib/target/log',
  policy: '/var/lib/target/policy.json',
};

/** Opens the setting of the scenes in a virtual machine with systemd. */
export async function openSetting(): Promise<Setting> {
  const vm = await openVm();
  const must = async (command: string, input = '') => {
    const { code, stdout, stderr } = await vm.run(command, { input, timeoutMs: 120_000 });
    if (code !== 0)
      throw new Error(`${command}: status ${code}\n${stdout}${stderr}\n${vm.consoleText().slice(-2_000)}`);
    return stdout;
  };
  const startTarget = async (withPolicy: boolean) => {
    const options = `--file-system ${fileSystem} --listen 10.1.1.6:2049 --metadata 169.254.169.254:80 --state-dir ${target.state}/keys`;
    const policy = withPolicy ? `--policy ${target.policy}` : '';
    await must(`systemctl stop ${target.unit} 2>/dev/null; rm -f ${target.events} ${target.log}
      systemd-run --quiet --unit=${target.unit} --collect -p NetworkNamespacePath=/run/netns/service -p StandardOutput=file:${target.log} \
        efs-agent target ${options} ${policy} --events ${target.events}
      timeout 60 sh -c 'until grep -q "target listens" ${target.log}; do sleep 0.2; done'`);
  };
  let taken = 0;
  try {
    await vm.copyClone();
    await must(network);
    await must('/root/efs-agent/install.sh && mkdir -p /mount/efs');
    await must(`mkdir -p ${target.state} && cat > ${target.policy}`, JSON.stringify(policyFor(roleArn)));
    await startTarget(true);
    await must(
      `echo "10.1.1.6 ${dnsName}" >> /etc/hosts; cp ${target.state}/keys/ca.pem /etc/amazon/efs/efs-utils.crt`,
    );
  } catch (error) {
    await vm.close();
    throw error;
  }
  return {
    vm,
    setPolicy: async (policy) => {
      taken = 0;
      if (policy !== null) await must(`cat > ${target.policy}`, JSON.stringify(policy));
      await startTarget(policy !== null);
    },
    takeEvents: async () => {
      const lines = (await must(`touch ${target.events}; cat ${target.events}`))
        .split('\n')
        .filter((line) => line !== '');
      const events = lines.slice(taken).map((line) => JSON.parse(line) as ServiceEvent);
      taken = lines.length;
      return events;
    },
    close: () => vm.close(),
  };
}

const network = `set -e
ip netns add service
ip link add efs0 type veth peer name eth0 netns service
ip address add 10.1.1.10/24 dev efs0
ip link set efs0 up
ip route add 169.254.169.254 via 10.1.1.6
ip -n service link set lo up
ip -n service address add 10.1.1.6/24 dev eth0
ip -n service address add 169.254.169.254/32 dev eth0
ip -n service link set eth0 up`;
