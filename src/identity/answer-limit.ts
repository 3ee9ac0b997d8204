import { pipeline, type Readable, Transform } from 'node:stream';

/** An answer of AWS is some kilobytes; a hundred mount targets are some ten. */
const mostBytes = 1_048_576;

/** What sends requests for a client of the SDK, as far as it matters here. */
interface Handler {
  handle(...request: unknown[]): Promise<{ response: { body?: unknown } }>;
}

/**
 * An extension for clients of the AWS SDK, which reads answers whole, however long they are: whoever answers for AWS gets no more
 * memory than this.
 *
 * Errors: an answer that is longer ends with an error whose code is `AnswerTooLong`.
 */
export const answerLimit = {
  configure(client: { httpHandler(): unknown }): void {
    const handler = client.httpHandler() as Handler;
    const send = handler.handle.bind(handler);
    handler.handle = async (...request) => {
      const answer = await send(...request);
      answer.response.body = limit(answer.response.body as Readable);
      return answer;
    };
  },
};

function limit(body: Readable): Readable {
  let receivedBytes = 0;
  const limited = new Transform({
    transform(chunk: Buffer, _encoding, pass) {
      receivedBytes += chunk.length;
      if (receivedBytes <= mostBytes) pass(null, chunk);
      else pass(Object.assign(new Error('the answer is too long'), { code: 'AnswerTooLong' }));
    },
  });
  // Whoever reads the answer hears of errors.
  return pipeline(body, limited, () => {});
}
