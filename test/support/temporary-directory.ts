import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { expect } from 'vitest';

/** A new directory whose name says which test file made it: what a test leaves behind is found by its name. */
export function createTemporaryDirectory(): string {
  const file = basename(expect.getState().testPath ?? '', '.test.ts');
  // Unix sockets below it have at most 107 characters for their whole path.
  return mkdtempSync(join(tmpdir(), `efs-agent-test-${file.slice(0, 20)}-`));
}
