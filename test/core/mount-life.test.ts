import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decideMount, type MountEvent, type MountPhase } from '../../src/core/mount-life.ts';

/**
 * A mount with a kernel, a mount.nfs4 and a caller around it, which do whatever they like as far as real ones could: the
 * kernel connects only to a listener, and mounts only over a connection.
 */
class World {
  phase: MountPhase = 'opening';
  connections = 0;
  kernelHasIt = false;
  program: 'not-started' | 'running' | 'ended' = 'not-started';
  callerIsThere = true;
  tablesAreReadable = true;

  get listens(): boolean {
    return this.phase !== 'closing';
  }

  feed(event: MountEvent): void {
    this.phase = decideMount(this.phase, event);
    if (this.phase === 'mounting' && this.program === 'not-started') this.program = 'running';
    // A session does not outlive its tunnel.
    if (!this.listens) this.connections = 0;
  }

  look(): boolean | null {
    return this.tablesAreReadable ? this.kernelHasIt : null;
  }

  goneCaller(): void {
    if (!this.callerIsThere) return;
    this.callerIsThere = false;
    this.feed({ kind: 'caller-gone', inTables: this.look(), connections: this.connections });
  }

  sweep(mayCarryAnother: boolean): void {
    const sight = { inTables: this.look(), connections: this.connections, mayCarryAnother };
    this.feed({ kind: 'looked', sight });
  }

  reportedEnd(): void {
    if (this.program !== 'ended' || !this.callerIsThere) return;
    this.callerIsThere = false;
    // A mount.nfs4 that is killed at its deadline may have mounted.
    this.feed({ kind: 'mount-failed', inTables: this.look() });
  }
}

const steps = {
  recorded: (world: World) => world.phase === 'opening' && world.feed({ kind: 'recorded' }),
  'recording fails': (world: World) => world.phase === 'opening' && world.feed({ kind: 'failed' }),
  kept: (world: World) => world.phase === 'opening' && world.feed({ kind: 'kept' }),
  'the kernel connects': (world: World) => {
    if (world.listens && (world.program === 'running' || world.kernelHasIt)) world.connections += 1;
  },
  'the kernel mounts': (world: World) => {
    if (world.program !== 'running' || world.connections === 0) return;
    world.kernelHasIt = true;
    world.program = 'ended';
  },
  'the kernel refuses': (world: World) => {
    if (world.program === 'running') world.program = 'ended';
  },
  'the kernel hangs up': (world: World) => {
    world.connections = Math.max(0, world.connections - 1);
  },
  'the kernel unmounts': (world: World) => {
    world.kernelHasIt = false;
  },
  'success is reported': (world: World) => {
    if (world.program !== 'ended' || !world.callerIsThere) return;
    world.callerIsThere = false;
    world.feed({ kind: 'mount-succeeded' });
  },
  'failure is reported': (world: World) => world.reportedEnd(),
  'the caller dies': (world: World) => world.goneCaller(),
  'a sweep': (world: World) => world.sweep(false),
  'a sweep while another mount is there': (world: World) => world.sweep(true),
  'the tables become unreadable': (world: World) => {
    world.tablesAreReadable = false;
  },
  'the tables become readable': (world: World) => {
    world.tablesAreReadable = true;
  },
};
const history = fc.array(fc.constantFrom(...(Object.keys(steps) as (keyof typeof steps)[])), {
  maxLength: 60,
});

test('whatever happens, a mount that the kernel has keeps its listener', () => {
  fc.assert(
    fc.property(history, (names) => {
      const world = new World();
      for (const name of names) {
        steps[name](world);
        if (world.kernelHasIt) expect(world.listens).toBe(true);
      }
    }),
    { numRuns: 3_000 },
  );
});

test('whatever happens, a mount that is gone gives its port back at the next look', () => {
  fc.assert(
    fc.property(history, (names) => {
      const world = new World();
      for (const name of names) steps[name](world);

      world.program = 'ended';
      world.kernelHasIt = false;
      world.connections = 0;
      world.tablesAreReadable = true;
      world.goneCaller();
      world.sweep(false);

      expect(world.phase).toBe('closing');
    }),
    { numRuns: 3_000 },
  );
});

test('a mount that closes never comes back', () => {
  fc.assert(
    fc.property(history, (names) => {
      const world = new World();
      world.phase = 'closing';
      for (const name of names) {
        steps[name](world);
        expect(world.phase).toBe('closing');
      }
    }),
  );
});

test('a mount.nfs4 that was killed at its deadline and has mounted in spite of it keeps its tunnel', () => {
  expect(decideMount('mounting', { kind: 'mount-failed', inTables: true })).toBe('mounted');
});

test('a mount whose caller died while mount.nfs4 is still connected is kept, and looked at later', () => {
  expect(decideMount('mounting', { kind: 'caller-gone', inTables: false, connections: 1 })).toBe('mounted');
});
