import http from 'node:http';
import { setTimeout as wait } from 'node:timers/promises';
import { startPatience } from '../core/patience.ts';

/** What an endpoint on this host or link answered. `reason` is one phrase for a person; it never quotes the answer. */
export type LocalAnswer =
  | { kind: 'ok'; body: string }
  | { kind: 'status'; status: number; reason: string }
  | { kind: 'none'; reason: string };

export interface LocalRequest {
  method?: 'GET' | 'PUT';
  headers?: Record<string, string>;
  /** Ends the request, retry included. */
  budget?: AbortSignal;
}

/** A healthy endpoint answers in milliseconds; the second attempt is for a machine that is slow itself, at boot for example. */
const firstAttemptMs = 1_000;
const secondAttemptMs = 3_000;
const retryPauseMs = 100;
const answerBytes = 65_536;

/**
 * Asks a metadata or credential endpoint, once more if it was silent, reset the connection or said it is busy.
 *
 * Follows no redirect and uses no proxy. Units: at most one second, then three. Errors: none, the answer says why.
 */
export async function askLocal(url: URL, request: LocalRequest = {}): Promise<LocalAnswer> {
  const first = await attempt(url, request, firstAttemptMs);
  if (!first.mayPass) return first.answer;
  await wait(retryPauseMs);
  return request.budget?.aborted ? first.answer : (await attempt(url, request, secondAttemptMs)).answer;
}

/** An address as it may be shown: without user information and query, which may be secret. */
export function showUrl(url: URL): string {
  return `${url.origin}${url.pathname}`;
}

async function attempt(
  url: URL,
  { method = 'GET', headers = {}, budget }: LocalRequest,
  attemptMs: number,
): Promise<{ answer: LocalAnswer; mayPass: boolean }> {
  const timeout = new AbortController();
  const patience = openPatience(timeout, attemptMs);
  const signal = budget ? AbortSignal.any([timeout.signal, budget]) : timeout.signal;
  try {
    const { status, body } = await exchange(url, method, headers, signal);
    if (status === 200) return { answer: { kind: 'ok', body }, mayPass: false };
    return {
      answer: { kind: 'status', status, reason: `HTTP status ${status}` },
      mayPass: status === 429 || status >= 500,
    };
  } catch (thrown) {
    if (signal.aborted) {
      return { answer: { kind: 'none', reason: `no answer within ${attemptMs} ms` }, mayPass: true };
    }
    const code = (thrown as NodeJS.ErrnoException).code ?? 'the connection failed';
    return { answer: { kind: 'none', reason: `no answer: ${code}` }, mayPass: code === 'ECONNRESET' };
  } finally {
    patience.cancel();
  }
}

/** Aborts what is silent for so long, as far as this process was able to listen. Units: milliseconds. */
export function openPatience(abort: AbortController, limitMs: number): { cancel(): void } {
  const schedule = (delayMs: number, run: () => void) => {
    const timer = setTimeout(run, delayMs).unref();
    return { cancel: () => clearTimeout(timer) };
  };
  return startPatience(schedule, limitMs, () => abort.abort());
}

async function exchange(url: URL, method: string, headers: Record<string, string>, signal: AbortSignal) {
  // TLS is rare here, and loading it would be a tenth of the start-up.
  const { request } = url.protocol === 'https:' ? await import('node:https') : http;
  return new Promise<{ status: number; body: string }>((resolve, reject) => {
    // A fresh agent, because the global one may be set to use the proxy of the environment.
    const asked = request(url, { method, headers, signal, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      let receivedBytes = 0;
      response.on('data', (chunk: Buffer) => {
        chunks.push(chunk);
        receivedBytes += chunk.length;
        if (receivedBytes > answerBytes)
          asked.destroy(Object.assign(new Error(), { code: 'the answer is too long' }));
      });
      response.on('error', reject);
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') }),
      );
    });
    asked.on('error', reject);
    asked.end();
  });
}
