import fc from 'fast-check';
import { expect, test } from 'vitest';
import { type MountOption, parseOptions } from '../../src/core/mount-spec.ts';
import {
  honoursReadAhead,
  planNfsOptions,
  planReadAheadKib,
  planRemountOptions,
} from '../../src/core/nfs-options.ts';

const names = fc.constantFrom(
  ...[
    'rw',
    'ro',
    '_netdev',
    'nofail',
    'nconnect',
    'nfsvers',
    'vers',
    'rsize',
    'wsize',
    'hard',
    'soft',
    'softerr',
  ],
  ...['timeo', 'retrans', 'noresvport', 'resvport', 'port', 'x-systemd.automount'],
);
const optionLists = fc.uniqueArray(
  fc.record({ name: names, value: fc.option(fc.constantFrom('1', '4.0', 'x', '')) }),
  {
    selector: ({ name }) => name,
  },
);
const ports = fc.integer({ min: 1, max: 65_535 });

/** Specification 1.6 once more, as a list of cases instead of a table. */
function expectedDefaults(given: string[]): string[] {
  const added: string[] = [];
  if (!given.includes('nfsvers') && !given.includes('vers')) added.push('nfsvers=4.1');
  if (!given.includes('rsize')) added.push('rsize=1048576');
  if (!given.includes('wsize')) added.push('wsize=1048576');
  if (!given.includes('hard') && !given.includes('soft') && !given.includes('softerr')) added.push('hard');
  if (!given.includes('timeo')) added.push('timeo=600');
  if (!given.includes('retrans')) added.push('retrans=2');
  if (!given.includes('noresvport') && !given.includes('resvport')) added.push('noresvport');
  return added;
}

test('without options of the user the defaults and the port are given', () => {
  expect(planNfsOptions([], 20_575)).toBe(
    'nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport,port=20575',
  );
});

test('options of the user come first and the defaults after, as the reference was measured to do', () => {
  expect(planNfsOptions(parseOptions('rw,_netdev'), 20_575)).toBe(
    'rw,_netdev,nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport,port=20575',
  );
});

test('a user who asks for a reserved port gets one', () => {
  const text = planNfsOptions(parseOptions('resvport'), 1);

  expect(text.split(',')).toContain('resvport');
  expect(text).not.toContain('noresvport');
});

test('an SELinux context with a comma reaches mount.nfs4 in its quotes', () => {
  expect(planNfsOptions(parseOptions('context="system_u:object_r:nfs_t:s0:c1,c2"'), 1)).toMatch(
    /^context="system_u:object_r:nfs_t:s0:c1,c2",nfsvers/,
  );
});

test('any options: the user first and in order, each default only where it is left open, one port and it is last', () => {
  fc.assert(
    fc.property(optionLists, ports, (user, port) => {
      const items = planNfsOptions(user, port).split(',');

      const own = user
        .filter(({ name }) => name !== 'port')
        .map((o) => (o.value === null ? o.name : `${o.name}=${o.value}`));
      expect(items).toEqual([...own, ...expectedDefaults(user.map(({ name }) => name)), `port=${port}`]);
    }),
  );
});

test("without a tunnel the port is the user's, or none", () => {
  expect(planNfsOptions(parseOptions('port=2050,ro,nfsvers=4.1'), null)).toBe(
    'port=2050,ro,nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport',
  );
});

test('a remount names what is to change, the version and the port, and no default the kernel would refuse', () => {
  expect(planRemountOptions(parseOptions('remount,ro'), 20_575)).toBe('remount,ro,nfsvers=4.1,port=20575');
  expect(planRemountOptions(parseOptions('remount,vers=4.0,port=1'), 20_575)).toBe(
    'remount,vers=4.0,port=20575',
  );
  expect(planRemountOptions(parseOptions('remount'), null)).toBe('remount,nfsvers=4.1');
});

test.each([
  ['5.4.0-1045-aws', true],
  ['5.10.0', true],
  ['6.1', true],
  ['10.0.1', true],
  ['5.3.18-lp152', false],
  ['4.18.0-553.el8.x86_64', false],
  ['4.19', false],
  ['', false],
  ['unknown', false],
])('the kernel %j honours the read-ahead: %s', (release, honoured) => {
  expect(honoursReadAhead(release)).toBe(honoured);
});

test('the read-ahead is fifteen reads', () => {
  expect(planReadAheadKib([])).toBe(15_360);
  expect(planReadAheadKib(parseOptions('rsize=65536'))).toBe(960);
  expect(planReadAheadKib(parseOptions('rsize=1000'))).toBe(14);
});

test.each([
  'rsize',
  'rsize=',
  'rsize=1.5',
  'rsize=x',
  'rsize=-1',
  'rsize=0',
  'rsize=1e6',
  'rsize=99999999999999',
])('with %s the read-ahead is left alone and nothing fails', (text) => {
  expect(planReadAheadKib(parseOptions(text))).toBeNull();
});

test('the read-ahead is a positive whole number or nothing, whatever rsize is', () => {
  fc.assert(
    fc.property(fc.option(fc.oneof(fc.string(), fc.nat().map(String))), (value) => {
      const options: MountOption[] = [{ name: 'rsize', value }];
      const kib = planReadAheadKib(options);

      expect(kib === null || (Number.isSafeInteger(kib) && kib > 0)).toBe(true);
    }),
  );
});
