import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { highestRssBytes } from '../support/processes.ts';
import { makeHome, plantedSecret, startEndpoint } from './endpoints.ts';
import { forkIdentity, type Question } from './forked.ts';

/** What whoever answers for AWS or for the metadata service may send, and what becomes of it. */

const mebibyte = 1_048_576;
/** The process itself, the AWS SDK, and one answer. */
const mostRssBytes = 250 * mebibyte;

const unnamed = { awsProfile: null, awsCredsUri: null, roleArn: null, jwtPath: null };
const question: Question = {
  kind: 'whoami',
  credentials: unnamed,
  region: 'us-east-1',
  dnsSuffix: 'amazonaws.com',
};

type Answer = (to: ServerResponse) => void;

const send =
  (status: number, headers: Record<string, string>, body: string | Buffer) => (to: ServerResponse) =>
    void to.writeHead(status, headers).end(body);

/** Sends the same again until nobody takes it any more. */
const repeat = (status: number, headers: Record<string, string>, text: string) => (to: ServerResponse) => {
  const part = Buffer.from(text.repeat(Math.ceil(65_536 / text.length)));
  to.on('error', () => {});
  to.writeHead(status, headers);
  const more = () => {
    while (!to.destroyed && to.write(part));
  };
  to.on('drain', more);
  more();
};

const xml = { 'content-type': 'text/xml' };
const gzipped = { ...xml, 'content-encoding': 'gzip' };
const entities = Array.from(
  { length: 12 },
  (_, level) => `<!ENTITY e${level + 1} "${level === 0 ? 'ha'.repeat(50) : `&e${level};`.repeat(10)}">`,
).join('');
const answers: [what: string, answer: Answer][] = [
  ['does not end', repeat(200, xml, 'x')],
  ['does not end, and is an error', repeat(500, xml, 'x')],
  ['has headers without end', (to) => void to.socket!.write(`HTTP/1.1 200 OK\r\nx: ${'y'.repeat(mebibyte)}`)],
  ['is 256 MiB of zeros, compressed', send(200, gzipped, gzipSync(Buffer.alloc(256 * mebibyte)))],
  ['is compressed without end', repeat(200, gzipped, gzipSync(Buffer.alloc(mebibyte)).toString('latin1'))],
  ['defines entities that make 10^13 bytes', send(200, xml, `<!DOCTYPE x [${entities}]><x>&e12;</x>`)],
  ['opens twenty thousand elements', send(200, xml, '<a>'.repeat(20_000))],
  [
    'has elements whose names are methods',
    send(200, xml, '<__proto__><constructor>x</constructor></__proto__>'),
  ],
  ['has a thousand attributes without an end', send(200, xml, `<a ${'b="c" '.repeat(1_000)}`)],
  [
    'promises a GiB and ends',
    (to) => {
      to.writeHead(200, { ...xml, 'content-length': String(1_024 * mebibyte) });
      to.write('<a/>', () => to.destroy());
    },
  ],
  ['redirects', send(302, { location: 'http://127.0.0.1:9/' }, '')],
  ['is empty', send(200, xml, '')],
  ['is blank without end', repeat(200, xml, ' ')],
];

const services: [name: string, surround: (url: string) => Parameters<typeof forkIdentity>[0]][] = [
  [
    'STS',
    (url) => ({
      environment: {
        AWS_ROLE_ARN: 'arn:aws:iam::123456789012:role/web-role',
        AWS_WEB_IDENTITY_TOKEN_FILE: join(makeHome({ token: plantedSecret }), '.aws/token'),
        AWS_ENDPOINT_URL_STS: url,
      },
    }),
  ],
  ['the metadata service', (url) => ({ metadataEndpoint: url })],
];

test.each(services)(
  'whatever %s answers is a failure with a code, soon, and takes no memory',
  { timeout: 120_000 },
  async (_name, surround) => {
    let answer: Answer = () => {};
    const service = await startEndpoint((_, response) => answer(response));
    const { child, ask } = await forkIdentity(surround(service.url));

    for (const [what, row] of answers) {
      answer = row;
      const told = await ask(question);

      expect(told, what).toMatchObject({
        kind: 'failed',
        error: { code: expect.stringMatching(/^credentials\./) },
      });
      expect(highestRssBytes(child.pid!), what).toBeLessThan(mostRssBytes);
    }

    expect(service.asked.length).toBeGreaterThanOrEqual(answers.length);
    expect(child.exitCode).toBeNull();
  },
);
