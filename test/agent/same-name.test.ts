import { once } from 'node:events';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { setTimeout as wait } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createMounts, type Mounts, type MountsPorts } from '../../src/agent/mounts.ts';
import { parseConfig } from '../../src/core/config.ts';
import { parseMountSpec, parseOptions } from '../../src/core/mount-spec.ts';
import { FakeClock } from '../support/fake-clock.ts';

/** Two mounts of one directory, one after the other, have one name when they have one port, or none. */
const mountPoint = '/mnt/efs';
const mountLine = `65 29 0:54 / ${mountPoint} rw - nfs4 127.0.0.1:/ rw,addr=127.0.0.1\n`;

interface Gate {
  open(): void;
  passed: Promise<void>;
}

function createGate(): Gate {
  let open = () => {};
  const passed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { open, passed };
}

/** What the kernel's mount table says, what is recorded, and what of it takes its time. */
interface World {
  table: string;
  records: Set<string>;
  /** The next look at the table waits for it, having read it already. */
  slowLook: Gate | null;
  /** The next removal of a record waits for it. */
  slowRemoval: Gate | null;
}

let mountTarget: Server;
let world: World;
let mounts: Mounts;
beforeEach(async () => {
  mountTarget = createServer().listen(0, '127.0.0.1');
  await once(mountTarget, 'listening');
  world = { table: '', records: new Set(), slowLook: null, slowRemoval: null };
  mounts = createMounts(openPorts((mountTarget.address() as AddressInfo).port));
});
afterEach(() => mountTarget.close());

function openPorts(mountTargetPort: number): MountsPorts {
  const ports: Partial<MountsPorts> = {
    clock: new FakeClock(0),
    log: () => {},
    random: () => 0,
    version: '1.0.0',
    hostName: 'host',
    readConfig: async () =>
      parseConfig([
        {
          path: 'efs-utils.conf',
          text: `[mount]\nregion = us-east-1\n[agent]\nmount_target_port = ${mountTargetPort}\n`,
        },
      ]),
    async *readMountTables() {
      const { table, slowLook } = world;
      world.slowLook = null;
      await slowLook?.passed;
      yield table;
    },
    callers: { call: async () => null, remove: async () => {} },
    stateFiles: {
      async write(mountId) {
        world.records.add(mountId);
      },
      async remove(mountId) {
        const { slowRemoval } = world;
        world.slowRemoval = null;
        await slowRemoval?.passed;
        world.records.delete(mountId);
      },
      read: async () => [],
      setAside: async () => {},
    },
  };
  return ports as MountsPorts;
}

async function mount(): Promise<void> {
  const request = {
    spec: parseMountSpec('fs-0123abcd', parseOptions('mounttargetip=127.0.0.1')),
    mountPoint,
    environment: {},
    callerSocket: null,
  };
  const opened = await mounts.open(request, new AbortController().signal, () => {});
  world.table = mountLine;
  await mounts.confirm(opened.mount);
}

const mounted = () => mounts.status().map((status) => [status.mountPoint, status.state]);

test('a mount is not forgotten when a look for the one before it, on the same directory and port, ends late', async () => {
  await mount();
  const late = createGate();
  world.table = '';
  world.slowLook = late;
  const sweeping = mounts.sweep();
  expect(await mounts.unmounted(mountPoint)).toBe(true);
  await mount();

  late.open();
  await sweeping;

  expect(mounted()).toEqual([[mountPoint, 'mounted']]);
  expect(world.records.size).toBe(1);
});

test('a mount keeps its record while that of the one before it, on the same directory, is still being removed', async () => {
  await mount();
  const late = createGate();
  world.table = '';
  world.slowRemoval = late;
  const unmounting = mounts.unmounted(mountPoint);
  await expect.poll(() => world.slowRemoval).toBe(null);
  const mounting = mount();
  await Promise.race([mounting, wait(300)]);

  late.open();
  await Promise.all([unmounting, mounting]);

  expect(mounted()).toEqual([[mountPoint, 'mounted']]);
  expect(world.records.size).toBe(1);
});
