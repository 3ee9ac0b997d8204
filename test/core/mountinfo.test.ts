import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  findNfsMount,
  findNfsMounts,
  findTunnelMounts,
  indexNfsMounts,
  isInIndex,
  type MountEntry,
  parseMountInfo,
} from '../../src/core/mountinfo.ts';

const efsLine =
  '64 29 0:53 / /mnt/efs rw,relatime shared:31 - nfs4 127.0.0.1:/ rw,vers=4.1,rsize=1048576,wsize=1048576,namlen=255,hard,noresvport,proto=tcp,port=20898,timeo=600,retrans=2,sec=sys,clientaddr=127.0.0.1,local_lock=none,addr=127.0.0.1';

const plain = fc.string({
  unit: fc.constantFrom('a', 'ü', '=', ',', '/', ':', '-', '.', '1', '"'),
  maxLength: 12,
});
const odd = fc.string({
  unit: fc.constantFrom('a', ' ', '\t', '\n', '\\', '#', 'é', '0', '4', '-', '/', '"', '💾'),
  maxLength: 12,
});
const entries: fc.Arbitrary<MountEntry> = fc.record({
  mountId: fc.nat(),
  parentId: fc.nat(),
  major: fc.nat(4_095),
  minor: fc.nat(1_048_575),
  root: odd.map((text) => `/${text}`),
  mountPoint: odd.map((text) => `/${text}`),
  options: plain.map((text) => `rw${text}`),
  fsType: fc.constantFrom('nfs4', 'ext4', 'fuse.sshfs'),
  source: odd,
  superOptions: plain.map((text) => `rw${text}`),
});

/** What the kernel does: show_mountinfo and its mangle(), which escapes these five characters. */
function formatEntry(entry: MountEntry, tags: string[]): string {
  const mangle = (text: string) =>
    text.replace(/[ \t\n\\#]/g, (c) => `\\${c.charCodeAt(0).toString(8).padStart(3, '0')}`);
  return [
    `${entry.mountId} ${entry.parentId} ${entry.major}:${entry.minor} ${mangle(entry.root)} ${mangle(entry.mountPoint)}`,
    entry.options,
    ...tags,
    `- ${entry.fsType} ${mangle(entry.source)} ${entry.superOptions}`,
  ].join(' ');
}

test('the line of an EFS mount is read', () => {
  expect(parseMountInfo(`${efsLine}\n`)).toMatchObject([
    {
      mountId: 64,
      parentId: 29,
      major: 0,
      minor: 53,
      root: '/',
      mountPoint: '/mnt/efs',
      fsType: 'nfs4',
      source: '127.0.0.1:/',
    },
  ]);
});

test('a mount point with a blank is read with its blank', () => {
  const [entry] = parseMountInfo(efsLine.replace('/mnt/efs', '/mnt/my\\040files'));

  expect(entry?.mountPoint).toBe('/mnt/my files');
});

test('what the kernel writes reads back the same, with odd characters and any number of tags', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(entries, fc.subarray(['shared:1', 'master:2', 'propagate_from:3', 'unbindable']))),
      (mounts) => {
        const text = mounts.map(([entry, tags]) => `${formatEntry(entry, tags)}\n`).join('');

        expect(parseMountInfo(text)).toEqual(mounts.map(([entry]) => entry));
      },
    ),
  );
});

test('a line that is cut off is an error and not a missing mount', () => {
  for (let end = 1; end <= efsLine.indexOf('127.0.0.1:/ ') + 10; end++) {
    expect(() => parseMountInfo(efsLine.slice(0, end))).toThrow(
      expect.objectContaining({ code: 'internal' }),
    );
  }
});

test('text that is no mountinfo gives one error and never another', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom('a', ' ', '\n', '-', ':', '1', '\\', '04'), maxLength: 80 }),
      (text) => {
        try {
          parseMountInfo(text);
        } catch (error) {
          expect(error).toMatchObject({ code: 'internal' });
        }
      },
    ),
  );
});

test('the mounts of a tunnel are its NFS mounts and their bind mounts, and no others', () => {
  const bind = efsLine.replace('64 29 0:53 / /mnt/efs', '70 29 0:53 /app /srv/app');
  const others = [
    efsLine.replace('port=20898', 'port=2089'),
    efsLine.replace('port=20898', 'mountport=20898'),
    efsLine.replace('nfs4 127.0.0.1:/', 'nfs4 10.1.1.6:/').replace(',addr=127.0.0.1', ',addr=10.1.1.6'),
    efsLine.replace('- nfs4', '- nfs'),
    '22 1 8:1 / / rw - ext4 /dev/sda1 rw,port=20898,addr=127.0.0.1',
  ];

  const found = findTunnelMounts(parseMountInfo([efsLine, bind, ...others].join('\n')), 20_898);

  expect(found.map(({ mountPoint }) => mountPoint)).toEqual(['/mnt/efs', '/srv/app']);
});

test('the NFS mount on top of a directory is found, and nothing that is below something else', () => {
  const line = (type: string, source: string) => `36 25 0:55 / /mnt rw shared:1 - ${type} ${source} rw\n`;
  const nfs = line('nfs4', '10.1.1.6:/');
  const automount = line('autofs', 'systemd-1');

  expect(findNfsMount(parseMountInfo(automount + nfs), '/mnt')?.source).toBe('10.1.1.6:/');
  expect(findNfsMount(parseMountInfo(nfs + automount), '/mnt')).toBeNull();
  expect(findNfsMount(parseMountInfo(nfs), '/other')).toBeNull();
  expect(findNfsMounts(parseMountInfo(nfs + automount + line('nfs', 'nas:/x')), '/mnt')).toHaveLength(2);
});

test('what is asked of the index is what a search of the table finds', () => {
  const place = fc.constantFrom('/mnt/efs', '/mnt/other');
  const port = fc.integer({ min: 20_049, max: 20_052 });
  const nfs = fc.record({
    port,
    mountPoint: place,
    server: fc.constantFrom('127.0.0.1', '10.1.1.6'),
    fsType: fc.constantFrom('nfs4', 'nfs', 'tmpfs'),
  });
  fc.assert(
    fc.property(fc.array(nfs, { maxLength: 4 }), place, port, (mounts, mountPoint, asked) => {
      const lines = mounts.map(
        (mount) =>
          `64 29 0:53 / ${mount.mountPoint} rw - ${mount.fsType} ${mount.server}:/ rw,port=${mount.port},addr=${mount.server}`,
      );
      const table = parseMountInfo(lines.join('\n'));

      const index = indexNfsMounts(table);

      expect(isInIndex(index, { port: asked, mountPoint })).toBe(findTunnelMounts(table, asked).length > 0);
      expect(isInIndex(index, { port: null, mountPoint })).toBe(findNfsMounts(table, mountPoint).length > 0);
      expect(isInIndex(index, { port: null, mountPoint: null })).toBe(false);
    }),
  );
});
