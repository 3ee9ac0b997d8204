import { Readable } from 'node:stream';
import { STSClient } from '@aws-sdk/client-sts';
import { AgentError } from '../../src/core/errors.ts';
import { configureClient } from '../../src/identity/aws-api.ts';
import { requestRole } from '../../src/identity/sts.ts';
import type { AsyncTarget } from './targets.ts';

// Which Node this is changes no answer; the warning would stand among the results.
process.env['AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED'] = 'true';

const statuses = [200, 400, 403, 500];
const place = { region: 'us-east-1', dnsSuffix: 'amazonaws.com', environment: {} };

/** The SDK's own reader of answers is in reach here: a bundle of its own, since coverage of much code is slow to read. */
export const targets: Record<string, AsyncTarget> = {
  /** The first byte is the status, the rest the answer. */
  sts: async (bytes) => {
    const client = new STSClient({
      ...configureClient('STS', place, 5_000),
      maxAttempts: 1,
      requestHandler: {
        handle: async () => ({
          response: {
            statusCode: statuses[(bytes[0] ?? 0) % statuses.length]!,
            headers: { 'content-type': 'text/xml' },
            body: Readable.from([bytes.subarray(1)]),
          },
        }),
      },
    });
    try {
      const { keys } = await requestRole(client, 'arn:aws:iam::123456789012:role/r', 'token', 'STS');
      if (typeof keys.secretAccessKey !== 'string') throw new Error('keys that are no text');
    } catch (error) {
      if (!(error instanceof AgentError) || error.code === 'internal') throw error;
    }
  },
};
