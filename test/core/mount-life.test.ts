import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decideMount, decideRecorded, type MountEvent, type MountPhase } from '../../src/core/mount-life.ts';

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

/** The same, with a caller that can be called, and agents that die and are followed by others. */
class WorldOfAgents extends World {
  agentIsUp = true;

  override get listens(): boolean {
    return this.agentIsUp && super.listens;
  }

  override feed(event: MountEvent): void {
    if (this.agentIsUp) super.feed(event);
  }

  /** The agent calls until neither the caller nor its mount.nfs4 answers. */
  override goneCaller(): void {
    this.callerIsThere = false;
    this.callIsInVain();
  }

  callIsInVain(): void {
    if (this.callerIsThere || this.program === 'running') return;
    this.feed({ kind: 'caller-gone', inTables: this.look(), connections: this.connections });
  }

  /** Its connections are a worker's. */
  agentDies(): void {
    this.agentIsUp = false;
  }

  nextAgent(mayCarryAnother: boolean): void {
    if (this.agentIsUp) return;
    this.agentIsUp = true;
    const isRecorded = this.phase === 'mounting' || this.phase === 'mounted';
    const callerIsThere = this.callerIsThere || this.program === 'running';
    const fate = decideRecorded({ inTables: this.look(), mayCarryAnother, callerIsThere });
    this.phase = !isRecorded || fate === 'gone' ? 'closing' : fate;
  }
}

const stepsOfAgents = {
  ...steps,
  'the agent dies': (world: WorldOfAgents) => world.agentDies(),
  'the next agent starts': (world: WorldOfAgents) => world.nextAgent(false),
  'the next agent starts while another mount is there': (world: WorldOfAgents) => world.nextAgent(true),
  'a call is in vain': (world: WorldOfAgents) => world.callIsInVain(),
  'mount.nfs4 is tried again': (world: WorldOfAgents) => {
    if (world.callerIsThere && world.program === 'ended' && !world.kernelHasIt) world.program = 'running';
  },
};
const historyOfAgents = fc.array(
  fc.constantFrom(...(Object.keys(stepsOfAgents) as (keyof typeof stepsOfAgents)[])),
  { maxLength: 80 },
);

test('whichever agent serves it, a mount that the kernel has, or that mount.nfs4 may still make, keeps its port', () => {
  fc.assert(
    fc.property(historyOfAgents, (names) => {
      const world = new WorldOfAgents();
      for (const name of names) {
        stepsOfAgents[name](world);
        if (world.agentIsUp && (world.kernelHasIt || world.program === 'running'))
          expect(world.listens).toBe(true);
      }
    }),
    { numRuns: 5_000 },
  );
});

test('whichever agent serves it, a mount that nobody makes and that is gone gives its port back', () => {
  fc.assert(
    fc.property(historyOfAgents, (names) => {
      const world = new WorldOfAgents();
      for (const name of names) stepsOfAgents[name](world);

      world.program = 'ended';
      world.kernelHasIt = false;
      world.connections = 0;
      world.tablesAreReadable = true;
      world.nextAgent(false);
      world.goneCaller();
      world.sweep(false);

      expect(world.phase).toBe('closing');
    }),
    { numRuns: 5_000 },
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
