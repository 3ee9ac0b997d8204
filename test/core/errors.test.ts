import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  AgentError,
  asAgentError,
  type Details,
  type FaultCode,
  faults,
  fromErrorMessage,
  renderError,
} from '../../src/core/errors.ts';
import { exitCodeOf } from '../../src/core/exit-codes.ts';

const codes = Object.keys(faults) as FaultCode[];
const anyCode = fc.constantFrom(...codes);
const anyThrown = fc.oneof(
  fc.string().map((text) => new TypeError(text)),
  fc.string(),
  fc.double(),
  fc.constantFrom(null, undefined, {}),
);
const anyDetails: fc.Arbitrary<Details> = fc.dictionary(
  fc.string({ minLength: 1 }).filter((name) => name !== 'hint' && name !== '__proto__'),
  fc.oneof(fc.string(), fc.integer(), fc.boolean(), fc.constant(null)),
);

test('docs/errors.md is what the fault table makes of it', () => {
  const page = execFileSync(process.execPath, ['scripts/errors-md.mjs', '--print'], { encoding: 'utf8' });

  expect(readFileSync('docs/errors.md', 'utf8')).toBe(page);
});

test('docs/errors.md explains every code once, under its layer, with exit status and hint', () => {
  const page = readFileSync('docs/errors.md', 'utf8').replaceAll('\\', '');
  const sections = page.split(/^## /m).slice(1);

  for (const code of codes) {
    const { layer, exit, text, cause, hint } = faults[code];
    const holding = sections.filter((section) => section.includes(`### \`${code}\`\n`));

    expect(holding, code).toHaveLength(1);
    expect(holding[0]!.startsWith(`${layer}:`), code).toBe(true);
    const own = holding[0]!.split(`### \`${code}\`\n`)[1]!.split('### ')[0]!;
    expect(own, code).toContain(` Exit ${exit}. `);
    for (const words of [text, cause, hint]) expect(own, code).toContain(words);
  }
});

test('every fault has a mount(8) status, a text, a cause and a hint, of one line each', () => {
  for (const code of codes) {
    expect([1, 2, 4, 8, 32], code).toContain(exitCodeOf(new AgentError(code, 'x')));
    const { text, cause, hint } = faults[code];
    expect(hint, code).toMatch(/^[A-Z][^\n]*\.$/);
    for (const words of [text, cause]) expect(words, code).toMatch(/^[A-Za-z][^\n]*\.$/);
    expect(new Set([text, cause, hint]).size, code).toBe(3);
  }
});

test('an error that travels to another process arrives with its code, message, details and hint', () => {
  fc.assert(
    fc.property(anyCode, fc.string(), anyDetails, (code, message, details) => {
      const sent = new AgentError(code, message, details);

      const received = fromErrorMessage(JSON.parse(JSON.stringify(sent.toMessage())));

      expect(received.toMessage()).toEqual(sent.toMessage());
      expect(received.hint).toBe(sent.hint);
    }),
  );
});

test('a code of a later version is shown as internal, its name and text kept', () => {
  for (const code of ['tls.from-the-future', 'toString', 'constructor', '__proto__']) {
    const received = fromErrorMessage({ code: code as FaultCode, message: 'text', details: {} });

    expect(received.code).toBe('internal');
    expect(received.message).toBe(`${code}: text`);
    expect(received.hint).toBe(faults.internal.hint);
  }
});

test('the place of the failure may know a better hint than the table', () => {
  const error = new AgentError('target.silent', 'silent', { hint: 'Open port 2049 in sg-1.' });

  expect(renderError('mount.efs', error)).toBe(
    'mount.efs: silent [target.silent]\n  Open port 2049 in sg-1.\n',
  );
});

test('whatever is thrown becomes an error of the table that keeps its cause', () => {
  fc.assert(
    fc.property(anyThrown, (thrown) => {
      const error = asAgentError(thrown);

      expect(error.code).toBe('internal');
      expect(error.cause).toBe(thrown);
    }),
  );
});

test('an error of the table is passed on as it is', () => {
  const error = new AgentError('dns.failed', 'x');

  expect(asAgentError(error)).toBe(error);
});
