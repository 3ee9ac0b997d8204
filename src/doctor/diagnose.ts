import type { Layer } from '../core/faults.ts';
import { type Check, type Finding, failure, type Verdict } from './check.ts';
import { checks } from './checks/index.ts';
import type { Subject } from './subject.ts';

/** A finding with the check that made it. */
export interface Result extends Finding {
  check: string;
  layer: Layer;
}

export interface Diagnosis {
  /** The worst of all findings. */
  verdict: Verdict;
  /** The first layer that fails, in the order of a mount; null when none does. */
  layer: Layer | null;
  results: Result[];
}

/** How long one check may take, in milliseconds: a name server that is dead costs the resolver half a minute. */
const deadlineMs = 45_000;

/**
 * Runs checks side by side, each with its own deadline. Errors: none.
 *
 * @param only the names of the checks to run; null = all of them.
 */
export async function diagnose(subject: Subject, only: readonly string[] | null): Promise<Diagnosis> {
  const chosen = checks.filter(({ name }) => only?.includes(name) ?? true);
  const results = (await Promise.all(chosen.map((check) => runCheck(check, subject)))).flat();
  const [failed] = layerOrder.filter((layer) =>
    results.some((result) => result.verdict === 'FAIL' && result.layer === layer),
  );
  const verdict = (['FAIL', 'WARN', 'PASS', 'SKIP'] as const).find((one) =>
    results.some((result) => result.verdict === one),
  );
  return { verdict: verdict ?? 'SKIP', layer: failed ?? null, results };
}

/** A layer that fails explains what fails above it. */
const layerOrder: readonly Layer[] = ['local', 'dns', 'tcp', 'tls', 'iam', 'nfs'];

async function runCheck(check: Check, subject: Subject): Promise<Result[]> {
  const { name, layer } = check;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<Finding>((resolve) => {
    timer = setTimeout(
      () =>
        resolve({
          verdict: 'FAIL',
          evidence: `no result within ${deadlineMs / 1_000} s`,
          fix: 'See what the other checks say, and try again.',
          code: null,
        }),
      deadlineMs,
    );
  });
  try {
    const found = await Promise.race([check.run(subject), late]);
    return (Array.isArray(found) ? found : [found]).map((finding) => ({ check: name, layer, ...finding }));
  } catch (thrown) {
    return [{ check: name, layer, ...failure(thrown) }];
  } finally {
    clearTimeout(timer);
  }
}
