import fc from 'fast-check';
import { expect, test } from 'vitest';
import { findProfile, parseProfiles, readProfileFiles } from '../../src/identity/profiles.ts';
import { makeHome } from './endpoints.ts';

const keys = (id: string) => `aws_access_key_id = ${id}\naws_secret_access_key = s\n`;

test('sections, comments, quoted names and Windows line ends are read as the AWS tools read them', () => {
  const profiles = parseProfiles(
    '\uFEFF# first\r\n[default]\r\naws_access_key_id=A # mine\r\n; no\r\n[profile "two words"]\r\nREGION = x=y\r\nno equals sign\r\n',
  );

  expect(profiles.get('default')?.get('aws_access_key_id')).toBe('A');
  expect(profiles.get('two words')?.get('region')).toBe('x=y');
  expect(profiles.size).toBe(2);
});

test('an indented group of settings does not become settings of the profile', () => {
  const profiles = parseProfiles('[a]\ns3 =\n  region = nested\nregion = own\n[b]\n  region = indented\n');

  expect(profiles.get('a')?.get('region')).toBe('own');
  expect(profiles.get('b')?.get('region')).toBe('indented');
});

test('any text is read without an error', () => {
  const line = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.constantFrom('[a]', '[profile a]', 'k = v', ' k =', '[', '[]', '='),
  );
  fc.assert(
    fc.property(fc.array(line), (lines) => {
      expect(parseProfiles(lines.join('\n'))).toBeInstanceOf(Map);
    }),
  );
});

test('what is written as a profile is read back', () => {
  const word = fc.stringMatching(/^[A-Za-z0-9_+/-]{1,40}$/);
  const profiles = fc.dictionary(
    word,
    fc.dictionary(
      word.map((key) => key.toLowerCase()),
      word,
    ),
    { noNullPrototype: true },
  );
  fc.assert(
    fc.property(profiles, fc.constantFrom('', 'profile '), (written, prefix) => {
      const text = Object.entries(written)
        .map(
          ([name, values]) =>
            `[${prefix}${name}]\n${Object.entries(values)
              .map(([key, value]) => `${key} = ${value}\n`)
              .join('')}`,
        )
        .join('\n');

      const read = parseProfiles(text);

      expect([...read.keys()].sort()).toEqual(Object.keys(written).sort());
      for (const [name, values] of Object.entries(written))
        expect(new Map(read.get(name))).toEqual(new Map(Object.entries(values)));
    }),
  );
});

test('keys of the credentials file win over the config file, and either spelling of a section is found', async () => {
  const files = await readProfileFiles(
    makeHome({
      credentials: `[both]\n${keys('A')}`,
      config: `[both]\n${keys('B')}[profile long]\n${keys('C')}[short]\n${keys('D')}`,
    }),
    {},
  );

  expect(findProfile(files, 'both')).toMatchObject({
    source: 'credentials:both',
    keys: { accessKeyId: 'A' },
  });
  expect(findProfile(files, 'long')).toMatchObject({ source: 'config:long', keys: { accessKeyId: 'C' } });
  expect(findProfile(files, 'short')).toMatchObject({ source: 'config:short', keys: { accessKeyId: 'D' } });
});

test('a profile without keys says how it gets some, or that it has none, or that it does not exist', async () => {
  const files = await readProfileFiles(
    makeHome({
      config: '[profile role]\nrole_arn = arn\nsource_profile = x\n[profile half]\naws_access_key_id = A\n',
    }),
    {},
  );

  expect(findProfile(files, 'role')).toEqual({ kind: 'indirect', means: ['role_arn'] });
  expect(findProfile(files, 'half')).toEqual({ kind: 'without-keys' });
  expect(findProfile(files, 'none')).toEqual({ kind: 'absent' });
});

test('a home directory without AWS files has no profiles; a file that cannot be read is an error that names it', async () => {
  const empty = await readProfileFiles('/nonexistent', {});

  expect(empty.credentials.size + empty.config.size).toBe(0);
  await expect(readProfileFiles(`${makeHome()}/.aws/../.aws/\0`, {})).rejects.toMatchObject({
    code: 'credentials.failed',
  });
});
