import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  type ClientMessage,
  createLineSplitter,
  formatMessage,
  forwardedEnvironment,
  maxLineBytes,
  parseAgentMessage,
  parseClientMessage,
  pickEnvironment,
  protocolVersion,
} from '../../src/core/control-protocol.ts';
import { AgentError } from '../../src/core/errors.ts';
import { parseMountSpec, parseOptions } from '../../src/core/mount-spec.ts';
import { logLevels } from '../../src/core/ports.ts';

const spec = parseMountSpec(
  'fs-0123456789abcdef0:/app',
  parseOptions('tls,iam,region=us-east-1,rw,timeo=600'),
);

const path = fc.string().map((text) => `/${text.replaceAll('\0', '')}`);
const version = fc.constant(protocolVersion);
const environment = fc.dictionary(fc.constantFrom(...forwardedEnvironment), fc.string({ minLength: 1 }), {
  noNullPrototype: true,
});
const anyMessage: fc.Arbitrary<ClientMessage> = fc.oneof(
  fc.record({
    kind: fc.constant('tunnel.open' as const),
    version,
    spec: fc.constant(spec),
    mountPoint: fc.option(path),
    environment,
    callerSocket: fc.constantFrom(null, '0123456789abcdef'),
  }),
  fc.record({
    kind: fc.constant('mount.ended' as const),
    status: fc.integer(),
    stderr: fc.string({ unit: 'binary' }),
  }),
  fc.record({ kind: fc.constant('unmounted' as const), version, mountPoint: path }),
  fc.record({ kind: fc.constant('status' as const), version }),
  fc.record({
    kind: fc.constant('log-level' as const),
    version,
    change: fc.option(
      fc.record({ level: fc.option(fc.constantFrom(...logLevels)), forMs: fc.option(fc.nat()) }),
    ),
  }),
  fc.record({
    kind: fc.constant('compare' as const),
    version,
    spec: fc.constant(spec),
    mountPoint: path,
    environment,
  }),
  fc.record({
    kind: fc.constant('whoami' as const),
    version,
    mountPoint: fc.option(path),
    region: fc.option(fc.string()),
    environment,
  }),
);

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return error instanceof AgentError ? error.code : `not an AgentError: ${error}`;
  }
  return 'none';
}

test('every message arrives as it was sent', () => {
  fc.assert(
    fc.property(anyMessage, (message) => {
      expect(parseClientMessage(formatMessage(message))).toEqual(message);
    }),
  );
});

test('messages arrive one at a time and whole, however the stream is cut', () => {
  fc.assert(
    fc.property(
      fc.array(anyMessage, { maxLength: 5 }),
      fc.array(fc.integer({ min: 1, max: 40 })),
      (messages, cuts) => {
        const stream = Buffer.from(messages.map(formatMessage).join(''));
        const split = createLineSplitter();
        const lines: string[] = [];
        let at = 0;
        for (const length of [...cuts, stream.length]) {
          lines.push(...split(stream.subarray(at, at + length)));
          at += length;
        }

        expect(lines.map(parseClientMessage)).toEqual(messages);
      },
    ),
  );
});

test('bytes one at a time give the same messages', () => {
  fc.assert(
    fc.property(anyMessage, anyMessage, (first, second) => {
      const stream = Buffer.from(formatMessage(first) + formatMessage(second));
      const split = createLineSplitter();

      const lines = [...stream].flatMap((byte) => split(Buffer.from([byte])));

      expect(lines.map(parseClientMessage)).toEqual([first, second]);
    }),
  );
});

test('random bytes are refused as a protocol error and nothing else', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      const [line] = createLineSplitter()(Buffer.from([...bytes.filter((byte) => byte !== 10), 10]));

      expect(codeOf(() => parseClientMessage(line!))).toBe('agent.protocol');
      expect(codeOf(() => parseAgentMessage(line!))).toBe('agent.protocol');
    }),
  );
});

test('JSON that is no message is refused with an error of the table', () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      expect(codeOf(() => parseClientMessage(JSON.stringify(value)))).toBe('agent.protocol');
    }),
  );
});

test('a message with one field replaced by something else is taken or refused, never half read', () => {
  fc.assert(
    fc.property(anyMessage, fc.nat(), fc.jsonValue(), (message, which, value) => {
      const names = Object.keys(message);
      const changed = { ...message, [names[which % names.length]!]: value };

      expect(['none', 'agent.protocol']).toContain(codeOf(() => parseClientMessage(JSON.stringify(changed))));
    }),
  );
});

test.each([protocolVersion - 1, protocolVersion + 1])(
  'a helper of the version beside ours is answered: %i',
  (version) => {
    expect(parseClientMessage(JSON.stringify({ kind: 'status', version }))).toEqual({
      kind: 'status',
      version,
    });
  },
);

test('a protocol version that is far from ours is named on both sides', () => {
  const line = JSON.stringify({ kind: 'status', version: protocolVersion + 2 });

  expect(() => parseClientMessage(line)).toThrow(
    `the helper speaks control protocol ${protocolVersion + 2}, the agent ${protocolVersion}`,
  );
});

test('a line that never ends is cut off at 256 KiB', () => {
  const split = createLineSplitter();
  const chunk = Buffer.alloc(64 * 1024, 'x');
  for (let sent = 0; sent < maxLineBytes; sent += chunk.length) split(chunk);

  expect(codeOf(() => split(Buffer.from('x')))).toBe('agent.protocol');
});

test('only the named variables of the caller travel with a request', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.string()), environment, (others, named) => {
      const picked = pickEnvironment({ AWS_SECRET_ACCESS_KEY: 'planted', ...others, ...named });

      for (const name of Object.keys(picked)) expect(forwardedEnvironment).toContain(name);
      expect(picked).toMatchObject(named);
    }),
  );
});

test('an empty variable counts as unset', () => {
  expect(pickEnvironment({ AWS_PROFILE: '', AWS_REGION: 'eu-west-1' })).toEqual({ AWS_REGION: 'eu-west-1' });
});

test.each(['../control.sock', 'abc', '', 7])('a caller cannot be called at %j', (callerSocket) => {
  const line = JSON.stringify({
    kind: 'tunnel.open',
    version: 1,
    spec,
    mountPoint: '/mnt',
    environment: {},
    callerSocket,
  });

  expect(codeOf(() => parseClientMessage(line))).toBe('agent.protocol');
});

test('a helper of a version that cannot be called is understood', () => {
  const line = JSON.stringify({ kind: 'tunnel.open', version: 1, spec, mountPoint: '/mnt', environment: {} });

  expect(parseClientMessage(line)).toMatchObject({ kind: 'tunnel.open', callerSocket: null });
});
