// What it costs to ask the agent: `efs-agent status` from the start of Node to its end, and a scrape of the metrics.
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { request } from 'node:http';
import { dirname, join } from 'node:path';
import { sumCpuSeconds } from './processes.mjs';

const rounds = 15;
const program = join(import.meta.dirname, '../dist/efs-agent.mjs');

/** Medians; the agent's processor time for a scrape is that of many, divided. */
export async function measureQuestions(controlSocket, agentPid) {
  const runtimeDir = dirname(controlSocket);
  const env = { PATH: process.env.PATH, EFS_AGENT_RUNTIME_DIR: runtimeDir };
  const statusMs = await median(() => execFileSync(process.execPath, [program, 'status'], { env }));
  const nodeMs = await median(() => execFileSync(process.execPath, ['-e', '0'], { env }));
  let scrapeBytes = 0;
  const before = sumCpuSeconds([agentPid]);
  const scrapeMs = await median(async () => {
    scrapeBytes = await scrape(join(runtimeDir, 'metrics.sock'));
  });
  const scrapeCpuMs = ((sumCpuSeconds([agentPid]) - before) * 1000) / rounds;
  return { statusMs, nodeMs, scrapeMs, scrapeCpuMs, scrapeBytes };
}

async function scrape(socketPath) {
  const [response] = await once(request({ socketPath, path: '/metrics' }).end(), 'response');
  let bytes = 0;
  for await (const chunk of response) bytes += chunk.length;
  return bytes;
}

async function median(run) {
  const times = [];
  for (let round = 0; round < rounds; round++) {
    const startedMs = performance.now();
    await run();
    times.push(performance.now() - startedMs);
  }
  return times.sort((one, other) => one - other)[Math.floor(rounds / 2)];
}
