import fc from 'fast-check';
import { expect, test } from 'vitest';
import { forwardedEnvironment } from '../../src/core/control-protocol.ts';
import { forgetSecrets, forgottenKeyId, secretEnvironment } from '../../src/core/secret-environment.ts';

test('no secret of any environment is left for the disk, every other variable is, and keys leave their mark', () => {
  const environment = fc.dictionary(fc.constantFrom(...forwardedEnvironment), fc.string({ minLength: 1 }), {
    noNullPrototype: true,
  });
  fc.assert(
    fc.property(environment, (given) => {
      const kept = forgetSecrets(given);

      const open = Object.entries(given).filter(([name]) => !secretEnvironment.includes(name));
      expect(kept).toMatchObject(Object.fromEntries(open));
      expect(kept['AWS_SECRET_ACCESS_KEY']).toBeUndefined();
      expect(kept['AWS_SESSION_TOKEN']).toBeUndefined();
      const hadKeys = 'AWS_ACCESS_KEY_ID' in given || 'AWS_SECRET_ACCESS_KEY' in given;
      expect(kept['AWS_ACCESS_KEY_ID']).toBe(hadKeys ? forgottenKeyId : undefined);
    }),
  );
});

test('every secret variable travels to the agent', () => {
  expect(forwardedEnvironment).toEqual(expect.arrayContaining([...secretEnvironment]));
});
