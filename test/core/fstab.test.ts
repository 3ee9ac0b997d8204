import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseFstab } from '../../src/core/fstab.ts';

test('lines are read with their numbers; comments, empty lines and half lines are left out', () => {
  const text = `# a comment
fs-0123:/  /mnt/efs\tefs  _netdev,tls,iam  0 0

  # another
/dev/sda1 / ext4
half line
fs-9:/ /with\\040space efs tls,awsprofile=a\\134b 0 0
`;

  expect(parseFstab(text)).toEqual([
    { number: 2, device: 'fs-0123:/', mountPoint: '/mnt/efs', fsType: 'efs', options: '_netdev,tls,iam' },
    { number: 5, device: '/dev/sda1', mountPoint: '/', fsType: 'ext4', options: 'defaults' },
    { number: 7, device: 'fs-9:/', mountPoint: '/with space', fsType: 'efs', options: 'tls,awsprofile=a\\b' },
  ]);
});

test('every line that is written with its escapes is read as it was meant', () => {
  const protect = (text: string) =>
    [...text]
      .map((one) => (/[\s\\#]/.test(one) ? `\\${one.charCodeAt(0).toString(8).padStart(3, '0')}` : one))
      .join('');
  const field = fc.string({ unit: fc.constantFrom(...'aZ9/:=,- \t\n\\#'), minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(fc.array(fc.tuple(field, field, field, field), { maxLength: 5 }), (lines) => {
      const text = lines.map((fields) => `${fields.map(protect).join('  ')} 0 0`).join('\n');

      expect(
        parseFstab(text).map(({ device, mountPoint, fsType, options }) => [
          device,
          mountPoint,
          fsType,
          options,
        ]),
      ).toEqual(lines);
    }),
  );
});
