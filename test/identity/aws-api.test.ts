import fc from 'fast-check';
import { expect, test } from 'vitest';
import { locateService, translateSdkError } from '../../src/identity/aws-api.ts';
import { plantedSecret } from './endpoints.ts';

test.each([
  ['us-east-1', 'amazonaws.com', {}, 'https://sts.us-east-1.amazonaws.com'],
  ['cn-north-1', 'amazonaws.com.cn', {}, 'https://sts.cn-north-1.amazonaws.com.cn'],
  ['us-east-1', 'on.aws', {}, 'https://sts.us-east-1.amazonaws.com'],
  ['cn-north-1', 'on.amazonwebservices.com.cn', {}, 'https://sts.cn-north-1.amazonaws.com.cn'],
  [
    'us-east-1',
    'amazonaws.com',
    { AWS_USE_FIPS_ENDPOINT: 'TRUE' },
    'https://sts-fips.us-east-1.amazonaws.com',
  ],
  ['us-east-1', 'amazonaws.com', { AWS_ENDPOINT_URL: 'https://all' }, 'https://all'],
  [
    'us-east-1',
    'amazonaws.com',
    { AWS_ENDPOINT_URL: 'https://all', AWS_ENDPOINT_URL_STS: 'https://sts' },
    'https://sts',
  ],
])('STS of %s under %s with %j is %s', (region, dnsSuffix, environment, expected) => {
  expect(
    locateService('STS', { region, dnsSuffix, environment: environment as Record<string, string> }),
  ).toBe(expected);
});

test('each service has its own host and its own variable', () => {
  const place = { region: 'us-gov-west-1', dnsSuffix: 'amazonaws.com', environment: {} };
  const own = {
    AWS_ENDPOINT_URL_EFS: 'https://efs',
    AWS_ENDPOINT_URL_EC2: 'https://ec2',
    AWS_ENDPOINT_URL: 'https://all',
  };
  const fips = { AWS_USE_FIPS_ENDPOINT: 'true' };

  expect(locateService('EFS', place)).toBe('https://elasticfilesystem.us-gov-west-1.amazonaws.com');
  expect(locateService('EC2', place)).toBe('https://ec2.us-gov-west-1.amazonaws.com');
  expect(locateService('EFS', { ...place, environment: fips })).toBe(
    'https://elasticfilesystem-fips.us-gov-west-1.amazonaws.com',
  );
  expect(locateService('EFS', { ...place, environment: own })).toBe('https://efs');
  expect(locateService('EC2', { ...place, environment: own })).toBe('https://ec2');
  expect(locateService('STS', { ...place, environment: own })).toBe('https://all');
});

test.each(['EAI_AGAIN', 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY', 'CERT_HAS_EXPIRED', 'ECONNREFUSED'])(
  'what kept Node from asking a service is told by its code: %s',
  (code) => {
    const error = translateSdkError(Object.assign(new Error('text'), { code }), 'STS at host');

    expect(error).toMatchObject({
      code: 'credentials.failed',
      message: `STS at host gave no usable answer (${code})`,
    });
  },
);

test('an error of the SDK is told by its code, never by its text', () => {
  const text = fc.oneof(fc.constant(plantedSecret), fc.string());
  const thrown = fc.record(
    {
      name: text,
      code: text,
      message: fc.constant(plantedSecret),
      $fault: fc.constantFrom('client', 'server'),
    },
    { requiredKeys: ['message'] },
  );
  fc.assert(
    fc.property(thrown, (any) => {
      const error = translateSdkError(any, 'STS');

      expect(error.code).toBe(
        any.name !== undefined && any.$fault === 'client' ? 'credentials.rejected' : 'credentials.failed',
      );
      expect(JSON.stringify(error.toMessage())).not.toContain(plantedSecret);
    }),
  );
});
