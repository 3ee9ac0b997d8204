import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseMountSpec, parseOptions } from '../../src/core/mount-spec.ts';
import {
  chooseMountState,
  formatMountState,
  type MountState,
  parseMountState,
  planMountId,
} from '../../src/core/mount-state.ts';

const state: MountState = {
  mountId: 'fs-0123456789abcdef0.mnt.efs.20575',
  fileSystemId: 'fs-0123456789abcdef0',
  accessPointId: 'fsap-0123456789abcdef0',
  path: '/',
  mountPoint: '/mnt/efs',
  port: 20_575,
  dnsName: 'fs-0123456789abcdef0.efs.us-east-1.amazonaws.com',
  region: 'us-east-1',
  spec: parseMountSpec('fs-0123456789abcdef0', parseOptions('tls,iam,accesspoint=fsap-0123456789abcdef0,rw')),
  createdAtMs: 1_700_000_000_000,
  environment: { AWS_PROFILE: 'efs' },
  callerSocket: null,
};

const states = fc
  .record({
    mountPoint: fc.string().map((text) => `/${text}`),
    path: fc.string().map((text) => `/${text}`),
    port: fc.option(fc.integer({ min: 1, max: 65_535 })),
    createdAtMs: fc.nat(),
    accessPointId: fc.constantFrom(null, 'fsap-0123456789abcdef0'),
    environment: fc.constantFrom({}, { AWS_PROFILE: 'efs' }),
    callerSocket: fc.constantFrom(null, '0123456789abcdef'),
  })
  .map((some): MountState => ({ ...state, ...some }));

test('a state file reads back as the mount it was written for', () => {
  fc.assert(
    fc.property(states, (one) => {
      expect(parseMountState(formatMountState(one))).toEqual({ kind: 'ok', state: one });
    }),
  );
});

test('a state file cut off at any byte is damaged and never an exception', () => {
  const bytes = Buffer.from(formatMountState({ ...state, mountPoint: '/mnt/grün' }));

  for (let end = 0; end < bytes.length; end++) {
    expect(parseMountState(bytes.subarray(0, end).toString())).toMatchObject({ kind: 'damaged' });
  }
});

test('a state file with any byte changed is damaged, so that no other port or access point is served', () => {
  const bytes = Buffer.from(formatMountState({ ...state, mountPoint: '/mnt/grün' }));
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, change) => {
      const changed = Buffer.from(bytes);
      changed[at]! ^= change;

      expect(parseMountState(changed.toString()).kind).toBe('damaged');
    }),
    { numRuns: 1_000 },
  );
});

test('a damaged state file loses no mount: its copy counts, wherever the damage is', () => {
  const text = formatMountState(state);
  fc.assert(
    fc.property(fc.nat(text.length - 1), fc.boolean(), (end, copyFirst) => {
      const records = [
        { path: 'file', text: text.slice(0, end) },
        { path: 'copy', text },
      ];

      const { state: found, damaged } = chooseMountState(copyFirst ? records.toReversed() : records);

      expect(found).toEqual(state);
      expect(damaged).toEqual([{ path: 'file', reason: expect.any(String) }]);
    }),
  );
});

test('a state file that cannot be read counts as damaged', () => {
  expect(chooseMountState([{ path: 'file', text: null }])).toEqual({
    state: null,
    damaged: [{ path: 'file', reason: 'the file cannot be read' }],
  });
});

test('any JSON is read or damaged, never an exception', () => {
  fc.assert(
    fc.property(fc.json(), (text) => {
      expect(parseMountState(`${text}\n`).kind).toBe('damaged');
    }),
  );
});

test('a state file of an agent that called no caller is read: nobody is called', () => {
  const { callerSocket: _, ...older } = state;

  expect(parseMountState(`${JSON.stringify({ version: 1, ...older })}\n`)).toEqual({ kind: 'ok', state });
});

test.each(Object.keys(state).filter((name) => name !== 'callerSocket'))(
  'a state file without %s is damaged, and the reason names it',
  (field) => {
    const { [field]: _, ...rest } = { ...state } as Record<string, unknown>;

    const reading = parseMountState(`${JSON.stringify({ version: 1, ...rest })}\n`);

    expect(reading).toEqual({ kind: 'damaged', reason: expect.stringContaining(`"${field}"`) });
  },
);

test('a state file of the version before, without a checksum, is read', () => {
  expect(parseMountState(`${JSON.stringify({ version: 1, ...state })}\n`)).toEqual({ kind: 'ok', state });
});

test('a state file of the next version is read, with its new fields left out', () => {
  const newer = { version: 3, ...state, later: { a: 1 }, spec: { ...state.spec, later: true } };

  expect(parseMountState(withChecksum(newer))).toEqual({ kind: 'ok', state });
});

test('a state file of a far newer version is not guessed at', () => {
  expect(parseMountState(withChecksum({ version: 4, ...state })).kind).toBe('damaged');
});

/** As any version from 2 on writes it: the checksum is that of all bytes before its comma. */
function withChecksum(fields: object): string {
  const text = JSON.stringify(fields).slice(0, -1);
  return `${text},"checksum":"${createHash('sha256').update(text).digest('hex')}"}\n`;
}

test('a state file holds nothing but the fields that are listed', () => {
  const carrying = { ...state, sessionToken: 'secret' };

  expect(JSON.parse(formatMountState(carrying))).toEqual({
    version: 2,
    ...state,
    checksum: expect.any(String),
  });
});

test.each([
  ['/mnt/efs', 'fs-1.mnt.efs.20575'],
  ['/.efs', 'fs-1.efs.20575'],
  ['/', 'fs-1..20575'],
  ['/a/.b', 'fs-1.a..b.20575'],
  ['/mnt/../srv//x/./y/', 'fs-1.srv.x.y.20575'],
])('the mount on %s is named %s, as in the reference', (mountPoint, name) => {
  expect(planMountId('fs-1', mountPoint, 20_575)).toBe(name);
});

test('a mount without a tunnel has a name without a port', () => {
  expect(planMountId('fs-1', '/mnt/efs', null)).toBe('fs-1.mnt.efs.direct');
});

test('the name of any mount fits a file, and two long mount points do not share one', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 600 }), (text) => {
      const name = planMountId('fs-1', `/${text}`, 20_575);

      expect(Buffer.byteLength(name)).toBeLessThanOrEqual(230);
      expect(name).not.toContain('/');
    }),
  );
  const long = `/${'a'.repeat(300)}`;
  expect(planMountId('fs-1', `${long}1`, 1)).not.toBe(planMountId('fs-1', `${long}2`, 1));
});
