import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { resolve } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { AgentError, type FaultCode } from '../../src/core/errors.ts';
import { exitCodeOf } from '../../src/core/exit-codes.ts';
import { faults } from '../../src/core/faults.ts';
import { type Bench, openBench, portRange } from './bench.ts';
import { cases } from './cases.ts';

let bench: Bench;
beforeAll(async () => {
  bench = await openBench();
});
afterEach(() => bench.reset());
afterAll(() => bench.close());

/** By `<code>: <name>`: what stderr shall be, after the line with the exit status. */
const golden = new Map(
  readFileSync(resolve(import.meta.dirname, '../golden/faults.txt'), 'utf8')
    .split(/^### /m)
    .slice(1)
    .map((section) => {
      const [title = '', exit = '', ...lines] = section.split('\n');
      return [
        title,
        { status: Number(exit.replace('exit ', '')), stderr: lines.join('\n').replace(/\n+$/, '\n') },
      ];
    }),
);
const titleOf = ({ code, name }: { code: string; name: string }) => `${code}: ${name}`;

test('every code of the catalogue is injected, and there are no golden texts of other faults', () => {
  const injected = new Set<FaultCode>(cases.map(({ code }) => code));

  expect(Object.keys(faults).filter((code) => !injected.has(code as FaultCode))).toEqual([]);
  expect([...golden.keys()].toSorted()).toEqual(cases.map(titleOf).toSorted());
  expect(cases.length).toBeGreaterThanOrEqual(40);
});

test.each(cases)(
  '$code, when there is $name: the documented text, code and exit status, and nothing is left',
  async (one) => {
    const expected = golden.get(titleOf(one))!;

    const outcome = await one.inject(bench);

    expect(mask(outcome.stderr)).toBe(expected.stderr);
    expect(outcome.status).toBe(expected.status);
    if (one.code !== 'cloudwatch.failed')
      expect(outcome.status).toBe(exitCodeOf(new AgentError(one.code, '')));
    expect(outcome.stderr).toContain(one.code);
    expect(outcome.stderr).not.toMatch(/\n\s+at /);
    // The agent undoes what a helper has left once it has noticed that the helper is gone.
    await expect.poll(() => bench.agent.stateFiles()).toEqual([]);
  },
);

test('after all of that nothing of ours listens any more', async () => {
  for (let port = portRange[0]; port <= portRange[1]; port += 1) {
    const probe = createServer();
    probe.listen(port, '127.0.0.1');
    await once(probe, 'listening');
    await new Promise((done) => probe.close(done));
  }
});

/** What differs from run to run, and the lines that an agent in the foreground logs beside its error. */
function mask(text: string): string {
  return text
    .replace(/^\d{4}-\d\d-\d\dT\S+ .*\n/gm, '')
    .replaceAll(bench.agent.directory, '{dir}')
    .replace(/127\.0\.0\.1:\d+/g, '127.0.0.1:{port}')
    .replace(/\[\d+\] is unavailable/g, '[{port}] is unavailable')
    .replace(/ports? \d{4,5}( to \d+)?/g, 'port {port}')
    .replace(/\[\d+, \d+\)/g, '[{port}, {port})')
    .replace(/ \d+ ms/g, ' {n} ms')
    .replace(/\b(pid|process) \d+/g, '$1 {pid}')
    .replace(/\w{3} [ \d]\d \d\d:\d\d:\d\d \d{4} GMT/g, '{time}')
    .replace(/\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT/g, '{time}')
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, '{time}');
}
