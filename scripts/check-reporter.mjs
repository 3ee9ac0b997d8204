// A vitest reporter for ./check: writes how many tests passed, which failed, and which were skipped and why.
import { writeFileSync } from 'node:fs';

export default class CheckReporter {
  onTestRunEnd(modules, unhandledErrors) {
    const summary = { passed: 0, failed: [], skipped: [], unhandled: unhandledErrors.length };
    for (const module of modules) {
      // A file that cannot be loaded has no tests, and must not count as none failed.
      if (module.errors().length > 0) summary.failed.push(module.relativeModuleId);
      for (const test of module.children.allTests()) {
        const { state, note } = test.result();
        const name = `${module.relativeModuleId}: ${test.fullName}`;
        if (state === 'passed') summary.passed += 1;
        else if (state === 'failed') summary.failed.push(name);
        else summary.skipped.push({ name, why: note ?? 'no reason given; see the log' });
      }
    }
    writeFileSync(process.env['CHECK_SUMMARY'], JSON.stringify(summary));
  }
}
