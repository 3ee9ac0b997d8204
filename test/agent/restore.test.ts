import { expect, test } from 'vitest';
import { createRestorer, type RestorerPorts } from '../../src/agent/restore.ts';
import { AgentError } from '../../src/core/errors.ts';
import { parseMountSpec, parseOptions } from '../../src/core/mount-spec.ts';
import { formatMountState, type MountState } from '../../src/core/mount-state.ts';
import { parseMountInfo } from '../../src/core/mountinfo.ts';

function recorded(port: number): MountState {
  return {
    mountId: `fs-0123456789abcdef0.mnt.${port}`,
    fileSystemId: 'fs-0123456789abcdef0',
    accessPointId: null,
    path: '/',
    mountPoint: `/mnt/${port}`,
    port,
    dnsName: 'fs-0123456789abcdef0.efs.us-east-1.amazonaws.com',
    region: 'us-east-1',
    spec: parseMountSpec('fs-0123456789abcdef0', parseOptions('tls')),
    environment: {},
    createdAtMs: 0,
    callerSocket: null,
  };
}

const mountedOn = (port: number) =>
  `36 25 0:55 / /mnt/${port} rw - nfs4 127.0.0.1:/ rw,vers=4.1,port=${port},addr=127.0.0.1\n`;

/** An agent's surroundings: what is recorded, what the kernel has, and what is served. */
function createSurroundings(states: MountState[], table: string) {
  const there = {
    table: table as string | null,
    records: new Map(states.map((state) => [state.mountId, formatMountState(state)])),
    served: [] as number[],
    /** Those whose mount.nfs4 is still at work. */
    beingMade: new Set<number>(),
    phases: [] as string[],
    failing: new Set<number>(),
    events: [] as string[],
    diskTakes: true,
  };
  const write = async () => {
    if (!there.diskTakes) throw new AgentError('runtime-dir.unusable', 'full');
  };
  const ports: RestorerPorts = {
    log: (_, event) => void there.events.push(event),
    stateFiles: {
      write,
      setAside: write,
      async remove(mountId) {
        await write();
        there.records.delete(mountId);
      },
      read: async () =>
        [...there.records].map(([mountId, text]) => ({ mountId, records: [{ path: mountId, text }] })),
    },
    async readTables() {
      if (there.table === null) throw new AgentError('internal', 'unreadable');
      return [parseMountInfo(there.table)];
    },
    isServed: (mountId) => there.served.some((port) => mountId.endsWith(`.${port}`)),
    isServedPort: (port) => there.served.includes(port),
    findCaller: async ({ port }) => there.beingMade.has(port!),
    prepare:
      () =>
      async ({ port }, phase) => {
        if (there.failing.has(port!)) throw new AgentError('port.taken', 'taken');
        there.served.push(port!);
        there.phases.push(phase);
      },
  };
  return { there, restorer: createRestorer(ports) };
}

test('a mount that cannot be served yet keeps no other waiting, keeps its port, and is tried again', async () => {
  const { there, restorer } = createSurroundings([recorded(1), recorded(2)], mountedOn(1) + mountedOn(2));
  there.failing.add(1);

  await restorer.restore();
  const afterFirst = { served: [...there.served], reserved: restorer.isReserved(1) };
  there.failing.clear();
  await restorer.retry();

  expect(afterFirst).toEqual({ served: [2], reserved: true });
  expect(there.served).toEqual([2, 1]);
  expect([1, 2].map((port) => restorer.isReserved(port))).toEqual([false, false]);
  expect(there.events).toEqual(['mount.not-restored', 'mount.restored', 'mount.restored']);
});

test('a mount that was unmounted meanwhile is not tried again, and its record goes', async () => {
  const { there, restorer } = createSurroundings([recorded(1)], mountedOn(1));
  there.failing.add(1);
  await restorer.restore();

  there.table = '';
  there.failing.clear();
  await restorer.retry();

  expect(there.served).toEqual([]);
  expect([...there.records]).toEqual([]);
  expect(restorer.isReserved(1)).toBe(false);
});

test('a mount whose mount.nfs4 is still at work is served although no mount table has it', async () => {
  const { there, restorer } = createSurroundings([recorded(1), recorded(2)], '');
  there.beingMade.add(1);

  await restorer.restore();

  expect(there.served).toEqual([1]);
  expect(there.phases).toEqual(['mounting']);
  expect([...there.records.keys()]).toEqual([recorded(1).mountId]);
});

test('a mount that comes to be between the question to its caller and the look at the tables is served', async () => {
  const { there, restorer } = createSurroundings([recorded(1), recorded(2)], '');
  const { has } = there.beingMade;
  there.beingMade.has = (port) => {
    there.table = mountedOn(1);
    return has.call(there.beingMade, port);
  };

  await restorer.restore();

  expect(there.served).toEqual([1, 2]);
});

test('when the mount tables cannot be read, no recorded mount counts as gone', async () => {
  const { there, restorer } = createSurroundings([recorded(1)], '');
  there.table = null;

  await restorer.restore();

  expect(there.served).toEqual([1]);
});

test('a disk that takes nothing keeps no mount from being served', async () => {
  const { there, restorer } = createSurroundings([recorded(1)], mountedOn(1));
  there.diskTakes = false;
  const text = there.records.get(recorded(1).mountId)!;
  there.records.set('fs-0123456789abcdef0.damaged.7', text.slice(9));

  await restorer.restore();

  expect(there.served).toEqual([1]);
  expect(there.events).toContain('mount.record-lost');
});

test('the port of a mount that nobody knows is given to no other while the kernel has it', async () => {
  const { there, restorer } = createSurroundings([], mountedOn(9));

  await restorer.restore();
  const whileMounted = restorer.isReserved(9);
  there.table = '';
  await restorer.retry();

  expect(whileMounted).toBe(true);
  expect(restorer.isReserved(9)).toBe(false);
});
