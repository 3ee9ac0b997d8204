/** Judges the cases on its standard input, a JSON list, and prints the verdicts; for a machine that has nothing but Node. */
import { text } from 'node:stream/consumers';
import { judge } from './judge.ts';
import type { TlsCase } from './tls-cases.ts';

async function main(): Promise<void> {
  const verdicts: string[] = [];
  for (const one of JSON.parse(await text(process.stdin)) as TlsCase[]) verdicts.push(await judge(one));
  process.stdout.write(`${JSON.stringify(verdicts)}\n`);
}

void main();
