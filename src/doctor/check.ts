import { asAgentError, type FaultCode } from '../core/errors.ts';
import type { Layer } from '../core/faults.ts';
import type { Subject } from './subject.ts';

export type Verdict = 'PASS' | 'WARN' | 'FAIL' | 'SKIP';

/** What one check found. */
export interface Finding {
  verdict: Verdict;
  /** What was seen, for people; never a secret. */
  evidence: string;
  /** What to do; null when there is nothing to do. */
  fix: string | null;
  /** The code of the fault table that a mount would fail with, where there is one. */
  code: FaultCode | null;
}

/** One independent diagnosis. */
export interface Check {
  name: string;
  layer: Layer;
  /** What it finds; several for what there may be several of. Errors: any; it failed then. */
  run(subject: Subject): Promise<Finding | Finding[]>;
}

export const pass = (evidence: string): Finding => ({ verdict: 'PASS', evidence, fix: null, code: null });
export const skip = (evidence: string): Finding => ({ verdict: 'SKIP', evidence, fix: null, code: null });
export const warn = (evidence: string, fix: string | null): Finding => ({
  verdict: 'WARN',
  evidence,
  fix,
  code: null,
});

/** What was thrown, as the failure of a check. */
export function failure(thrown: unknown): Finding {
  const error = asAgentError(thrown);
  return { verdict: 'FAIL', evidence: error.message, fix: error.hint, code: error.code };
}

/** Waits for what another check looks into as well: its failure is that check's to report. */
export function ifKnown<T>(fact: Promise<T>): Promise<T | null> {
  return fact.catch(() => null);
}

/** The error of a fact when it is of these kinds, else null. */
export async function errorOf(fact: Promise<unknown>, ...kinds: string[]): Promise<Finding | null> {
  try {
    await fact;
    return null;
  } catch (thrown) {
    const found = failure(thrown);
    return kinds.some((kind) => found.code === kind || found.code?.startsWith(`${kind}.`)) ? found : null;
  }
}
