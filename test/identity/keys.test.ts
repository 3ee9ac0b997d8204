import fc from 'fast-check';
import { expect, test } from 'vitest';
import { AgentError } from '../../src/core/errors.ts';
import { parseKeys, showCode } from '../../src/identity/keys.ts';
import { keysJson, plantedSecret } from './endpoints.ts';

function failureOf(text: string): AgentError {
  try {
    parseKeys(text);
  } catch (thrown) {
    if (thrown instanceof AgentError) return thrown;
    throw thrown;
  }
  throw new Error('it was accepted');
}

test('temporary keys are read with their expiry', () => {
  expect(parseKeys(keysJson('ASIAX', Date.UTC(2030, 0)))).toEqual({
    accessKeyId: 'ASIAX',
    secretAccessKey: plantedSecret,
    sessionToken: `${plantedSecret}==`,
    expiresAtMs: Date.UTC(2030, 0),
  });
});

test.each(['AccessKeyId', 'SecretAccessKey', 'Token'])('an answer without %s does not count', (name) => {
  for (const value of [undefined, '', 7, null]) {
    const error = failureOf(JSON.stringify({ ...JSON.parse(keysJson('ASIAX')), [name]: value }));

    expect(error.code).toBe('credentials.failed');
    expect(error.message).toContain(name);
  }
});

test('a role that cannot be assumed is named by the code of the service', () => {
  const error = failureOf('{"Code":"AssumeRoleUnauthorizedAccess","Message":"no"}');

  expect(error).toMatchObject({
    code: 'credentials.rejected',
    message: expect.stringContaining('AssumeRoleUnauthorizedAccess'),
  });
});

test('any other text is one error that quotes nothing of it', () => {
  const text = fc.oneof(
    fc.string().map((rest) => plantedSecret + rest),
    fc.json().map((json) => `${json}${plantedSecret}`),
    fc.jsonValue().map((value) => JSON.stringify({ Code: plantedSecret, value })),
    fc.jsonValue().map((value) =>
      JSON.stringify({
        AccessKeyId: plantedSecret,
        SecretAccessKey: value,
        Token: plantedSecret,
        Expiration: plantedSecret,
      }),
    ),
  );
  fc.assert(
    fc.property(text, (answer) => {
      const error = failureOf(answer);

      expect(error.code).toMatch(/^credentials\.(failed|rejected)$/);
      expect(error.message).not.toContain(plantedSecret);
    }),
  );
});

test('an error code is shown only if it is one short word', () => {
  expect(showCode('AccessDenied')).toBe('AccessDenied');
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (code) => {
      expect(showCode(code)).toMatch(/^[\w. ]{1,64}$/);
    }),
  );
});
